"""From rows to batches: ragged ids, the tokenised cache, buckets, epochs, and going on where a run was stopped."""

import collections
import dataclasses
import json

import datasets
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding, ByT5Tokenizer, MBart50Tokenizer, MBartTokenizer

from nash_jax.config.schema import TaskConfig
from nash_jax.data.pipeline import Batches, choose_shapes, make_iterator, tokenize, tokenize_sources
from nash_jax.data.tokenizers import build_pronunciation_tokenizer, choose_tokenizer
from nash_jax.ragged import Ragged
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import place_batch

PAD = 0


def ragged(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return Ragged.from_lists([rng.integers(1, 1000, n).tolist() for n in lengths])


def sequences(data):
    return [data.ids[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)]


def numbered(rows, max_source, max_target=12, seed=0):
    """Sources and targets of random lengths that both begin with the row's number plus one."""
    rng = np.random.default_rng(seed)
    lengths = np.stack([rng.integers(1, max_source + 1, rows), rng.integers(1, max_target + 1, rows)])
    parts = [Ragged.from_lists([[i + 1, *[7] * (n - 1)] for i, n in enumerate(ns)]) for ns in lengths]
    return parts[0], parts[1]


def rows_of(batch):
    """Row numbers of a batch of `numbered` data, the same from sources and targets."""
    found = batch["input_ids"][:, 0] - 1
    np.testing.assert_array_equal(found, batch["labels"][:, 0] - 1)
    return found.tolist()


# -- ragged ------------------------------------------------------------------------------------------------


def test_ragged_holds_sequences():
    lists = [[5, 6, 7], [], [8], [9, 10]]
    data = Ragged.from_lists(lists)
    assert sequences(data) == lists and len(data) == 4
    assert data.lengths.tolist() == [3, 0, 1, 2]
    assert (data.ids.dtype, data.offsets.dtype) == (np.int32, np.int64)
    assert len(Ragged.from_lists([])) == 0


def test_ragged_pads_on_the_right_and_cuts():
    data = Ragged.from_lists([[5, 6, 7], [], [8]])
    padded = data.pad([2, 0, 1, 0], 2, pad_id=-1)
    assert padded.dtype == np.int32
    np.testing.assert_array_equal(padded, [[8, -1], [5, 6], [-1, -1], [5, 6]])
    assert data.pad([], 3, 0).shape == (0, 3)


@pytest.mark.parametrize("chunks", [1, 3])
def test_ragged_from_a_column(chunks):
    lists = [[5, 6, 7], [], [8], [9, 10], [11]]
    tables = [datasets.Dataset.from_dict({"ids": part.tolist()}) for part in np.array_split(np.array(lists, object), 3)]
    table = datasets.concatenate_datasets(tables) if chunks == 3 else datasets.Dataset.from_dict({"ids": lists})
    assert sequences(Ragged.from_column(table, "ids")) == lists
    kept = table.select(range(2, 5))  # of a slice, whose offsets do not begin at 0
    assert sequences(Ragged.from_column(kept, "ids")) == lists[2:]


def test_tokenizers_in_python_alone(tmp_path):
    """ByT5's, which has no Rust behind it: its ids, from the cache too, and another class has another cache."""
    task = TaskConfig(max_source_length=8, max_target_length=8)
    rows = [{"source": "ab", "references": ["é"]}]
    for _ in range(2):
        sources, targets = tokenize(rows, ByT5Tokenizer(), task, tmp_path)
        assert (sequences(sources), sequences(targets)) == ([[100, 101, 1]], [[198, 172, 1]])
    assert len(list(tmp_path.iterdir())) == 1
    tokenize(rows, ByT5Tokenizer(extra_ids=10), task, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("▁a", -0.5), ("b", -1.5)]


@pytest.mark.parametrize("kind", [MBartTokenizer, MBart50Tokenizer])
def test_targets_are_tokenised_as_targets(tmp_path, kind):
    """mBART's put the language after a text, or before it: of targets another one."""
    kind(vocab=PIECES, src_lang="en_XX", tgt_lang="ro_RO").save_pretrained(tmp_path)
    rows, task = [{"source": "ab", "references": ["ab"]}], TaskConfig(tokenizer=str(tmp_path))
    tokenizer = choose_tokenizer(task, None, rows)
    sources, targets = tokenize(rows, tokenizer, task, tmp_path)
    for found, language in ((sources, "en_XX"), (targets, "ro_RO")):
        text = ["▁a", "b", "</s>"]
        expected = [*text, language] if kind is MBartTokenizer else [language, *text]
        assert tokenizer.convert_ids_to_tokens(sequences(found)[0]) == expected


# -- the tokenised cache -----------------------------------------------------------------------------------

ROWS = [
    {"source": "cat", "references": ["K AE T"]},
    {"source": "read", "references": ["R EH D", "R IY D"]},
    {"source": "a", "references": ["AH"]},
]
TASK = TaskConfig(max_source_length=5, max_target_length=4)


class Counting:
    """A tokenizer that counts its calls."""

    def __init__(self, rows=ROWS):
        self.own, self.calls = build_pronunciation_tokenizer(rows), 0
        self.backend_tokenizer = self.own.backend_tokenizer

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.own(*args, **kwargs)


def test_tokenised_pairs(tmp_path):
    """A row with two references gives two pairs; texts are cut to their longest length, EOS included."""
    tokenizer = Counting()
    sources, targets = tokenize(ROWS, tokenizer, dataclasses.replace(TASK, max_source_length=3), tmp_path)
    ids = tokenizer.own.convert_tokens_to_ids
    letters = [["c", "a"], ["r", "e"], ["r", "e"], ["a"]]
    assert sequences(sources) == [ids([*text, "</s>"]) for text in letters]
    phonemes = [["K", "AE", "T"], ["R", "EH", "D"], ["R", "IY", "D"], ["AH"]]
    assert sequences(targets) == [ids([*text, "</s>"]) for text in phonemes]


def test_second_call_reads_the_cache(tmp_path):
    tokenizer = Counting()
    first = tokenize(ROWS, tokenizer, TASK, tmp_path)
    assert tokenizer.calls > 0
    folders = [path.name for path in tmp_path.iterdir()]
    assert len(folders) == 1
    again = Counting()  # another object with the same vocabulary, as in the next process
    again.own("cat", truncation=True, max_length=2)  # which leaves its truncation in the tokenizer
    second = tokenize(ROWS, again, TASK, tmp_path)
    assert again.calls == 0
    for a, b in zip(first, second, strict=True):
        assert sequences(a) == sequences(b)
    once = tokenize_sources(ROWS, again, TASK, tmp_path)  # of each row: "read" has two references
    assert sequences(once) == [again.own(row["source"])["input_ids"] for row in ROWS] and again.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == folders


OTHER = {
    "source length": (ROWS, dataclasses.replace(TASK, max_source_length=4), None),
    "target length": (ROWS, dataclasses.replace(TASK, max_target_length=3), None),
    "rows": (ROWS[:2], TASK, None),
    "order of rows": (ROWS[::-1], TASK, None),
    "reference": ([ROWS[0], {"source": "read", "references": ["R EH D"]}, ROWS[2]], TASK, None),
    "vocabulary": (ROWS, TASK, [*ROWS, {"source": "z", "references": ["Z"]}]),
}


@pytest.mark.parametrize("what", OTHER)
def test_other_content_has_another_cache(tmp_path, what):
    rows, task, vocabulary = OTHER[what]
    tokenize(ROWS, Counting(), TASK, tmp_path)
    tokenizer = Counting(vocabulary or ROWS)
    tokenize(rows, tokenizer, task, tmp_path)
    assert tokenizer.calls > 0
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_run_left_is_not_taken(tmp_path):
    """A folder that was still being written has another name; it is written again."""
    whole = tokenize(ROWS, Counting(), TASK, tmp_path)
    (folder,) = tmp_path.iterdir()
    folder.rename(folder.with_name(folder.name + ".partial0"))
    (folder.with_name(folder.name + ".partial0") / "state.json").unlink()
    tokenizer = Counting()
    again = tokenize(ROWS, tokenizer, TASK, tmp_path)
    assert tokenizer.calls > 0 and sequences(again[0]) == sequences(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.slow
def test_more_texts_than_an_arrow_column_holds(tmp_path):
    """2.1 GiB of sources, as WMT's French has: the same text again and again, which takes no memory."""

    class Short:
        def get_vocab(self):
            return {}

        def __call__(self, text=None, text_target=None, **_):
            return BatchEncoding({"input_ids": [[len(each), 1] for each in text or text_target]})

    rows = [{"source": "a" * 2**20, "references": ["b"]}] * 2150
    sources, targets = tokenize(rows, Short(), TaskConfig(), tmp_path)
    assert sequences(sources) == [[2**20, 1]] * 2150 and sequences(targets) == [[1, 1]] * 2150


# -- buckets and epochs ------------------------------------------------------------------------------------


@given(rows=st.integers(1, 200), longest=st.integers(1, 300), seed=st.integers(0, 9))
def test_shapes_are_few_and_fit_every_row(rows, longest, seed):
    sources, targets = numbered(rows, longest, seed=seed)
    shapes = choose_shapes(sources, targets)
    assert 1 <= len(shapes) <= 3
    assert list(zip(*shapes, strict=True)) == [tuple(sorted(part)) for part in zip(*shapes, strict=True)]
    source, target = sources.lengths.max(), targets.lengths.max()
    last = shapes[-1]
    if max(source, target) <= 32:
        assert last == (source, target)
    else:
        assert all(part % 8 == 0 for shape in shapes for part in shape)
        assert 0 <= last[0] - source < 8 and 0 <= last[1] - target < 8


@pytest.mark.parametrize(("rows", "longest", "batch_size"), [(103, 60, 8), (64, 20, 16), (40, 200, 7), (5, 9, 5)])
def test_an_epoch_has_each_row_at_most_once_and_whole(rows, longest, batch_size):
    sources, targets = numbered(rows, longest)
    batches = Batches(sources, targets, batch_size, seed=3, pad_id=PAD)
    assert batches.steps_per_epoch == rows // batch_size
    for epoch in range(3):
        seen = collections.Counter()
        for index in range(batches.steps_per_epoch):
            batch = batches[epoch * batches.steps_per_epoch + index]
            numbers = rows_of(batch)
            seen.update(numbers)
            assert len(numbers) == batch_size
            assert (batch["input_ids"].shape[1], batch["labels"].shape[1]) in batches.shapes
            for name, data in (("input_ids", sources), ("labels", targets)):
                assert batch[name].dtype == np.int32
                np.testing.assert_array_equal((batch[name] != PAD).sum(1), data.lengths[numbers])  # nothing is cut
        assert max(seen.values()) == 1
        assert rows - len(seen) < batch_size


def test_shorter_rows_are_in_narrower_batches():
    sources, targets = numbered(2000, 250)
    batches = Batches(sources, targets, 16, seed=0, pad_id=PAD)
    assert len(batches.shapes) == 3
    plans = [batches[step] for step in range(batches.steps_per_epoch)]
    wide = sum(b["input_ids"].size for b in plans)
    assert {b["input_ids"].shape for b in plans} == {(16, source) for source, _ in batches.shapes}
    assert wide < 0.8 * len(plans) * 16 * batches.shapes[-1][0]  # less padding than one shape would need


def test_every_row_is_seen_in_some_epoch():
    """What an epoch drops is drawn anew."""
    batches = Batches(*numbered(27, 40), batch_size=8, seed=1, pad_id=PAD)
    seen = {row for step in range(20 * batches.steps_per_epoch) for row in rows_of(batches[step])}
    assert seen == set(range(27))


def test_a_batch_is_a_function_of_seed_and_step():
    sources, targets = numbered(90, 50)
    one, other = (Batches(sources, targets, 8, seed=5, pad_id=PAD) for _ in range(2))
    steps = range(3 * one.steps_per_epoch)
    forwards = [rows_of(one[step]) for step in steps]
    backwards = [rows_of(other[step]) for step in reversed(steps)][::-1]
    assert forwards == backwards
    assert [rows_of(Batches(sources, targets, 8, seed=6, pad_id=PAD)[step]) for step in steps] != forwards


def test_epochs_differ_in_order_and_in_company():
    batches = Batches(*numbered(96, 20), batch_size=8, seed=2, pad_id=PAD)
    per = batches.steps_per_epoch
    first, second = ([frozenset(rows_of(batches[e * per + i])) for i in range(per)] for e in range(2))
    assert len(set(first) & set(second)) == 0
    shapes = [[batches[e * per + i]["input_ids"].shape for i in range(per)] for e in range(2)]
    assert shapes[0] != shapes[1]  # not always the short rows first


def test_given_shapes_are_kept():
    sources, targets = numbered(30, 10)
    batches = Batches(sources, targets, 5, seed=0, pad_id=PAD, shapes=[(4, 12), (16, 12)])
    assert {batches[step]["input_ids"].shape[1] for step in range(batches.steps_per_epoch)} <= {4, 16}


# -- going on ----------------------------------------------------------------------------------------------


def test_iterator_goes_on_exactly_where_it_was():
    batches = Batches(*numbered(50, 30), batch_size=8, seed=4, pad_id=PAD)
    expected = [rows_of(batches[step]) for step in range(40)]
    whole = make_iterator(batches)
    assert [rows_of(next(whole)) for _ in range(40)] == expected
    for stop in (0, 1, 5, 6, 17):  # 6 batches an epoch, 8 read ahead
        iterator = make_iterator(batches)
        for _ in range(stop):
            next(iterator)
        position = json.loads(json.dumps(iterator.get_state()))
        next(iterator)  # does not move what was saved
        again = make_iterator(Batches(batches.sources, batches.targets, 8, seed=4, pad_id=PAD), position)
        assert [rows_of(next(again)) for _ in range(20)] == expected[stop : stop + 20]


def test_devices_hold_disjoint_parts_of_a_batch():
    """Each process makes the whole batch and places it; each device of the data axis has rows of its own."""
    batches = Batches(*numbered(64, 20), batch_size=16, seed=0, pad_id=PAD)
    placed = place_batch(make_mesh(), batches[0])["input_ids"]
    parts = [np.asarray(shard.data)[:, 0] - 1 for shard in placed.addressable_shards]
    assert len(parts) == jax.device_count() == 4
    assert [len(part) for part in parts] == [4] * 4
    assert sorted(np.concatenate(parts)) == sorted(rows_of(batches[0]))
