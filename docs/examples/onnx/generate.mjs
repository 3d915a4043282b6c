// Greedy search with transformers.js, from a folder of save_onnx on disk.
//
// node generate.mjs FOLDER [fp32|q8] < ROWS      ROWS: one JSON object a line, {"text": …} or {"ids": […]},
//                                                with "max_new_tokens" if the folder's settings should not count
// prints one JSON object a line: {"ids": […], "text": …}
//
// Without fp32 or q8 it takes the graphs that are there, float32 before int8.
// npm install @huggingface/transformers          NODE_MODULES: its folder, if not node_modules of the current folder
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

function fail(message) {
    console.error(`error: ${message}`);
    process.exit(2);
}

const place = path.resolve(process.env.NODE_MODULES ?? 'node_modules');
if (!fs.existsSync(path.join(place, '@huggingface', 'transformers')))
    fail(`${place} has no @huggingface/transformers; npm install it here, or name its folder in NODE_MODULES`);
const entry = createRequire(path.join(place, 'any.js')).resolve('@huggingface/transformers');

const [folder, asked] = process.argv.slice(2);
if (!folder) fail('no folder; expected one of save_onnx: node generate.mjs FOLDER [fp32|q8] < ROWS');
const endings = { fp32: '', q8: '_quantized' };
const isThere = (dtype) => fs.existsSync(path.join(folder, 'onnx', `encoder_model${endings[dtype]}.onnx`));
const there = Object.keys(endings).filter(isThere);
if (there.length === 0) fail(`${folder} has no onnx/encoder_model*.onnx; expected a folder of save_onnx`);
const dtype = asked ?? there[0];
if (!there.includes(dtype)) fail(`${folder} has no graphs of ${dtype}; expected ${there.join(' or ')}`);

const { env, AutoModelForSeq2SeqLM, AutoTokenizer, Tensor } = await import(pathToFileURL(entry));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
const name = path.basename(path.resolve(folder));
const model = await AutoModelForSeq2SeqLM.from_pretrained(name, { dtype });
let tokenizer = null;

function fromIds(ids) {
    const shape = [1, ids.length];
    const attention_mask = new Tensor('int64', new BigInt64Array(ids.length).fill(1n), shape);
    return { input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), shape), attention_mask };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
    const { text, ids, ...options } = JSON.parse(line);
    if (text !== undefined) tokenizer ??= await AutoTokenizer.from_pretrained(name);
    const inputs = text === undefined ? fromIds(ids) : tokenizer(text);
    const found = await model.generate({ ...inputs, do_sample: false, num_beams: 1, ...options });
    const row = { ids: found.tolist()[0].map(Number) };
    if (text !== undefined) row.text = tokenizer.decode(row.ids, { skip_special_tokens: true });
    console.log(JSON.stringify(row));
}
