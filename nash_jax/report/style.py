"""The page's style sheet: system fonts, one accent colour, light background, narrow screens minded."""

CSS = """
:root { color-scheme: light; --ink: #1f2a37; --muted: #5d6875; --line: #e1e5ea; --soft: #f5f7f9;
  --accent: #0f766e; --good: #0b6b50; --bad: #b3372f; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--soft); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 40px; }
.eyebrow { margin: 0; color: var(--accent); font-weight: 600; font-size: 14px; letter-spacing: .03em; }
h1 { margin: 4px 0 8px; font-size: clamp(26px, 4vw, 38px); line-height: 1.15; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
.verdict { margin: 0 0 16px; font-size: clamp(17px, 2vw, 20px); line-height: 1.45; max-width: 46em; }
.facts { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 28px; padding: 0; list-style: none; }
.facts li { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 2px 9px; font-size: 13px;
  color: var(--muted); overflow-wrap: anywhere; }
.facts b { color: var(--ink); font-weight: 600; }
.tiles { display: grid; gap: 12px; margin: 0 0 20px;
  grid-template-columns: repeat(auto-fit, minmax(max(150px, (100% - (var(--n) - 1) * 12px) / var(--n)), 1fr)); }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; margin: 0; }
.tile dt { color: var(--muted); font-size: 13.5px; }
.tile dd { margin: 0; }
.tile .big { font-size: 32px; font-weight: 650; letter-spacing: -.02em; line-height: 1.25;
  font-variant-numeric: tabular-nums; color: var(--accent); }
.tile .note { color: var(--muted); font-size: 13px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 20px 24px 22px;
  margin: 0 0 20px; }
h2 { font-size: 20px; margin: 0 0 4px; letter-spacing: -.01em; }
h3 { font-size: 15px; margin: 20px 0 4px; }
.lead { color: var(--muted); margin: 0 0 14px; font-size: 14.5px; max-width: 60em; }
/* Shadows at the edges say that there is more: the white covers move with the content, the shadows stay. */
.scroll { overflow-x: auto; background: linear-gradient(to right, #fff 30%, #fff0) left / 36px 100% no-repeat local,
  linear-gradient(to left, #fff 30%, #fff0) right / 36px 100% no-repeat local,
  linear-gradient(to right, #1f2a3730, #1f2a3700) left / 12px calc(100% - 2px) no-repeat scroll,
  linear-gradient(to left, #1f2a3730, #1f2a3700) right / 12px calc(100% - 2px) no-repeat scroll; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 7px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 2px; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; line-height: 1.3; vertical-align: bottom; }
tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scroll thead th:not(:first-child):has(.right) { text-align: right; }
.change { display: block; font-size: 12.5px; color: var(--muted); }
.better { color: var(--good); } .worse { color: var(--bad); }
figure { margin: 0; }
figure + figure, .scroll + figure, div + figure, figure + details, details + details { margin-top: 22px; }
figure .plot { display: block; width: 100%; min-width: 640px; height: auto; }
figure .plot text { font-family: inherit !important; }
figcaption { color: var(--muted); font-size: 13px; margin-top: 8px; max-width: 64em; }
.share { display: block; background: var(--soft); border-radius: 3px; height: 10px; min-width: 120px; margin-top: 6px; }
.share span { display: block; background: var(--accent); border-radius: 3px; height: 10px; min-width: 2px; }
.examples { display: grid; gap: 14px; list-style: none; margin: 0; padding: 0; }
.example { border: 1px solid var(--line); border-radius: 9px; display: grid; overflow: hidden;
  grid-template-columns: repeat(var(--n), minmax(0, 1fr)); }
.example > div { padding: 10px 14px; }
.example > div + div { border-left: 1px solid var(--line); }
.example .source { background: var(--soft); }
.example h3 { margin: 0 0 2px; font-size: 12.5px; font-weight: 500; color: var(--muted); display: flex;
  justify-content: space-between; gap: 8px; }
.text { margin: 0 0 6px; max-height: 13.5em; overflow-y: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: 14.5px; }
.text:last-child { margin-bottom: 0; }
.text + .text { border-top: 1px solid var(--line); padding-top: 6px; }
.empty { color: var(--muted); font-style: italic; }
.match { color: var(--good); font-weight: 600; white-space: nowrap; }
.hit { background: #eef8f5; }
details > summary { cursor: pointer; font-weight: 600; }
pre { background: var(--soft); border-radius: 8px; padding: 14px; overflow-x: auto; font-size: 12.5px;
  line-height: 1.45; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { color: var(--muted); font-size: 13px; padding-bottom: 40px; }
@media (max-width: 760px) {
  section { padding: 16px; }
  .example { grid-template-columns: minmax(0, 1fr); }
  .example > div + div { border-left: 0; border-top: 1px solid var(--line); }
}
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } .text { max-height: none; } }
"""
