"""An export of annalog's model against annalog's own code: tokens, logits, scores, greedy and beam search.

    python docs/examples/annalog/check.py --model=FOLDER

runs where annalog 1.0.6 is installed beside nash_jax, with torch, and rdkit and partialsmiles, which annalog's search
imports. One line for each comparison; the exit status is 1 when one of them fails.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from annalog.model_files import multi_gen_final, seq2seq_attention, vocabulary
from annalog.model_handler import SimpleField, SimpleVocab
from convert import NUM_HEADS, read_vocabulary, read_weights
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

import nash_jax

RESOURCES = Path(str(files("annalog"))) / "ckpt_and_vocab"
MAX_LENGTH = 102  # <sos> and <eos> included: annalog's default, and the rows of its position tables
CPU = torch.device("cpu")
SMILES = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "metformin": "CN(C)C(=N)NC(N)=N",
    "propranolol": "CC(C)NCC(O)COc1cccc2ccccc12",
    "fluoxetine": "CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1",
    "sertraline": "CN[C@H]1CC[C@@H](c2ccc(Cl)c(Cl)c2)c2ccccc21",
    "omeprazole": "COc1ccc2[nH]c(S(=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "celecoxib": "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "sildenafil": "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "gefitinib": "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
    "warfarin": "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "morphine": "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "ethanol": "CCO",
    "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O",
    "bromhexine": "CN(Cc1cc(Br)cc(Br)c1N)C1CCCCC1",
    "tamoxifen": "CC/C(=C(\\c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1",
}

Check = tuple[str, str, bool]  # what is compared, what came out, whether it is as it must be
Hypotheses = list[list[int]]


def load_peer() -> tuple[torch.nn.Module, SimpleField]:
    """annalog's model with its trained weights, made of its classes, and what knows its vocabulary."""
    state = read_weights(RESOURCES / "Lev_extended.pt")
    tokens = read_vocabulary(RESOURCES / "stereo_experiment_vocab_ttf.pkl")
    sizes = (len(tokens), 256, 3, NUM_HEADS, 512, 0.1, CPU, MAX_LENGTH)
    encoder, decoder = seq2seq_attention.Encoder(*sizes), seq2seq_attention.Decoder(*sizes)
    pad_id = tokens.index("<pad>")
    peer = seq2seq_attention.Seq2Seq(encoder, decoder, pad_id, pad_id, CPU)
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    field = SimpleField(tokenize=vocabulary.SMILESTokenizer().tokenize)
    field.vocab = SimpleVocab(tokens, {token: i for i, token in enumerate(tokens)})
    return peer.eval(), field


class OurLogits:
    """What annalog's search asks of a model, answered by nash_jax.

    The "encoded source" that it is handed are the source ids themselves: `decoder` gives the logits of the whole model.
    """

    def __init__(self, model: nash_jax.Seq2Seq, rows: int) -> None:
        self.model, self.rows = model, rows  # rows: no beam is wider; fewer are padded, so that little compiles

    def eval(self) -> None:
        """There is no dropout to turn off."""

    def make_src_mask(self, source: torch.Tensor) -> torch.Tensor:
        """Like annalog's; the model makes its own."""
        return source != self.model.spec.pad_id

    def encoder(self, source: torch.Tensor, source_mask: torch.Tensor) -> torch.Tensor:
        """Source ids [1, S] as [1, S, 1]."""
        return source[..., None]

    def decoder(self, target: torch.Tensor, encoded: torch.Tensor, *masks: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Logits [K, T, V] of target ids [K, T]; rows and lengths are padded on the way."""
        (rows, length), pad_id = target.shape, self.model.spec.pad_id
        wide = np.full((self.rows, min(-(-length // 32) * 32, MAX_LENGTH)), pad_id)
        wide[:rows, :length] = target
        source = np.full((self.rows, -(-encoded.shape[1] // 32) * 32), pad_id)
        source[:, : encoded.shape[1]] = encoded[0, :, 0]
        return torch.tensor(self.model.logits(source, None, wide)[:rows, :length]), None


class Searched(PreTrainedModel, GenerationMixin):
    """annalog's forward pass under `transformers`' generate: the reference for nash_jax's own beam search."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, peer: torch.nn.Module, spec: nash_jax.spec.ModelSpec) -> None:
        ids = {
            "pad_token_id": spec.pad_id,
            "eos_token_id": spec.eos_id,
            "decoder_start_token_id": spec.decoder_start_id,
        }
        super().__init__(PretrainedConfig(is_encoder_decoder=True, vocab_size=spec.vocab_size, **ids))
        self.peer = peer
        for name, value in ids.items():
            setattr(self.generation_config, name, value)

    def beams(self, source: torch.Tensor, **options: Any) -> np.ndarray:
        """Hypotheses [B·K, T] for source ids [B, S]."""
        source_mask = self.peer.make_src_mask(source)
        return self.generate(
            encoder_outputs=BaseModelOutput(self.peer.encoder(source, source_mask)),
            attention_mask=source_mask[:, 0, 0].long(),
            use_cache=False,
            **options,
        ).numpy()

    def forward(self, decoder_input_ids: torch.Tensor, encoder_outputs: Any, attention_mask: torch.Tensor, **_: Any):
        """Logits [B, T, V]."""
        target_mask = self.peer.make_trg_mask(decoder_input_ids)
        source_mask = attention_mask.bool()[:, None, None]
        return Seq2SeqLMOutput(
            logits=self.peer.decoder(decoder_input_ids, encoder_outputs[0], target_mask, source_mask)[0]
        )


def check_tokens(model: nash_jax.Seq2Seq, field: SimpleField) -> Check:
    """Both tokenizers, there and back."""
    good = 0
    for smiles in SMILES.values():
        ids = model.tokenizer(smiles)["input_ids"]
        same = ids == field.process([field.preprocess(smiles)])[0].tolist()
        good += same and model.tokenizer.decode(ids, skip_special_tokens=True) == smiles
    return "tokens, there and back", f"{good} of {len(SMILES)} equal", good == len(SMILES)


def check_logits(model: nash_jax.Seq2Seq, peer: Any, source: torch.Tensor) -> Check:
    """Teacher-forced logits; each molecule's target is the next molecule, so that the model is surprised."""
    target = source.roll(-1, 0)[:, :-1]
    theirs = peer(source, target)[0].numpy()
    real = target.numpy() != model.spec.pad_id  # at padding, annalog masks what nash_jax does not
    worst = np.abs(model.logits(source.numpy(), None, target.numpy()) - theirs)[real].max()
    what = f"logits of {real.sum()} target tokens (up to {np.abs(theirs[real]).max():.0f})"
    return what, f"largest difference {worst:.1e}", bool(worst <= 1e-4)


def check_scores(model: nash_jax.Seq2Seq, peer: Any, field: SimpleField) -> Check:
    """annalog's negative log-likelihood of a molecule given another, computed by its code over both models."""
    pairs, ours = zip(SMILES.values(), [*SMILES.values()][1:], strict=False), OurLogits(model, rows=1)
    ours.make_trg_mask = peer.make_trg_mask
    both = [[multi_gen_final.compute_nll(*pair, field, field, m, CPU)[0] for m in (peer, ours)] for pair in pairs]
    worst = max(abs(a - b) for a, b in both)
    return f"negative log-likelihoods of {len(both)} targets", f"largest difference {worst:.1e} nat", worst <= 1e-3


def their_beams(model: Any, field: SimpleField, width: int, **options: Any) -> list[list[tuple[list[int], float]]]:
    """annalog's own beam search for every molecule: (ids, score), best first."""
    found = []
    for smiles in SMILES.values():
        source = field.process([field.preprocess(smiles)])
        mask = model.make_src_mask(source)
        found.append(
            multi_gen_final.beam_search_decode(
                model, source, mask, field, width, MAX_LENGTH, CPU, use_masking=True, **options
            )
        )
    return found


def ids_of(beams: list[list[tuple[list[int], float]]]) -> list[Hypotheses]:
    """Token ids without scores."""
    return [[ids for ids, _ in hypotheses] for hypotheses in beams]


def rows_of(tokens: Any, width: int, pad_id: int) -> list[Hypotheses]:
    """What `generate` returns, [B·K, T], as K lists of ids without padding for each input."""
    rows = [[token for token in row if token != pad_id] for row in np.asarray(tokens).tolist()]
    return [rows[i : i + width] for i in range(0, len(rows), width)]


def compare(what: str, ours: list[Hypotheses], theirs: list[Hypotheses]) -> Check:
    """All hypotheses of all molecules, in order, token for token."""
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    good = sum(a == b for a, b in pairs)
    return what, f"{good} of {len(pairs)} equal", good == len(pairs)


def check_their_search(model: nash_jax.Seq2Seq, peer: Any, field: SimpleField, width: int, **options: Any) -> Check:
    """annalog's search code over the logits of both models; its filter of invalid SMILES widens the beam threefold."""
    rows = 3 * width if options else width
    both = [ids_of(their_beams(m, field, width, **options)) for m in (OurLogits(model, rows), peer)]
    what = f"annalog's beam search{', invalid SMILES filtered' if options else ''}, width {width}"
    return compare(f"{what}: over our logits = over its own", *both)


def check_our_search(
    model: nash_jax.Seq2Seq, peer: Any, source: torch.Tensor, width: int, **options: Any
) -> tuple[Check, list[Hypotheses]]:
    """nash_jax's beam search against `transformers`' over annalog's model, and what it found."""
    options = {"num_beams": width, "num_return_sequences": width, "max_new_tokens": MAX_LENGTH - 1} | options
    tokens = (model.generate_ids(source.numpy(), **options), Searched(peer, model.spec).beams(source, **options))
    ours, reference = (rows_of(t, width, model.spec.pad_id) for t in tokens)
    what = f"our beam search, width {width}, length_penalty {options['length_penalty']:.0f}"
    return compare(f"{what} = transformers' over annalog's model", ours, reference), ours


def share(ours: list[Hypotheses], theirs: list[Hypotheses], width: int) -> Check:
    """How much two searches have in common that differ by definition: told, not judged."""
    pairs = list(zip(ours, theirs, strict=True))
    first = sum(a[0] == b[0] for a, b in pairs)
    shared, total = sum(ids in b for a, b in pairs for ids in a), sum(len(a) for a in ours)
    result = f"{first} of {len(pairs)} best ones and {shared} of {total} of all are the same"
    return f"annalog's beam search and ours, width {width}, differ by definition", result, True


def checks(model: nash_jax.Seq2Seq, peer: Any, field: SimpleField, widths: Sequence[int]) -> Iterator[Check]:
    """All comparisons, the quick ones first."""
    source = field.process([field.preprocess(smiles) for smiles in SMILES.values()])
    yield check_tokens(model, field)
    yield check_logits(model, peer, source)
    yield check_scores(model, peer, field)
    greedy = rows_of(model.generate_ids(source.numpy(), max_new_tokens=MAX_LENGTH - 1), 1, model.spec.pad_id)
    yield compare("greedy: ours = annalog's beam search of width 1", greedy, ids_of(their_beams(peer, field, 1)))
    for width in widths:
        yield check_their_search(model, peer, field, width)
        nearest, ours = check_our_search(model, peer, source, width, length_penalty=0.0, early_stopping=True)
        yield nearest
        yield share(ours, ids_of(their_beams(peer, field, width)), width)
        yield check_our_search(model, peer, source, width, length_penalty=1.0)[0]
    if widths:
        yield check_their_search(model, peer, field, min(widths), filter_invalid=True)


def main() -> int:
    """Prints the comparisons; 1 when one fails."""
    parser = argparse.ArgumentParser(description="Compare an export of annalog's model with annalog's own code.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="*", default=[3, 5, 10])
    args = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small only wait for more
    failed = 0
    with torch.no_grad():
        for what, result, good in checks(nash_jax.load(args.model), *load_peer(), args.widths):
            print(f"{'ok  ' if good else 'FAIL'} {what}: {result}", flush=True)
            failed += not good
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
