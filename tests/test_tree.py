import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax import tree
from nash_jax.errors import UserError

keys = st.text("abc_01", min_size=1, max_size=4)
trees = st.dictionaries(keys, st.recursive(st.integers(), lambda t: st.dictionaries(keys, t, min_size=1)), max_size=4)

PARAMS = {
    "encoder": {"layers_0": {"wo": np.zeros((2, 3), np.float32), "wi": np.zeros((3, 2), np.float16)}},
    "lm_head": np.zeros((3, 5), np.float32),
}


@given(trees)
def test_flatten_round_trip(nested):
    flat = tree.flatten(nested)
    assert list(flat) == sorted(flat)
    assert tree.unflatten(flat) == nested


def test_flatten_paths():
    assert list(tree.flatten(PARAMS)) == ["encoder/layers_0/wi", "encoder/layers_0/wo", "lm_head"]


def test_map_with_path():
    sizes = tree.map_with_path(lambda path, leaf: (path, leaf.size), PARAMS)
    assert sizes == {
        "encoder": {"layers_0": {"wo": ("encoder/layers_0/wo", 6), "wi": ("encoder/layers_0/wi", 6)}},
        "lm_head": ("lm_head", 15),
    }


def test_matching_is_by_full_match_in_the_order_of_the_paths():
    paths = ["a/wi", "a/wo", "b/wi", "b/wi2"]
    assert tree.match_paths(paths, ["b/.*", "a/wi"]) == ["a/wi", "b/wi", "b/wi2"]
    assert tree.match_paths(paths, ["./wi"]) == ["a/wi", "b/wi"]
    assert tree.match_paths(paths, []) == []
    assert tree.match_paths(iter(paths), ["a/wo", "a/.*"]) == ["a/wi", "a/wo"]


def test_matching_names_the_nearest_path():
    with pytest.raises(UserError, match=r"no parameter matches 'lm_heads' \(did you mean 'lm_head'\?\)"):
        tree.match_paths(["shared", "lm_head"], ["shared", "lm_heads"])


def test_did_you_mean():
    assert tree.did_you_mean("encodr", ["encoder", "decoder"]) == " (did you mean 'encoder'?)"
    assert tree.did_you_mean("zzz", ["encoder", "decoder"]) == ""


def shapes(params):
    return {path: leaf.shape for path, leaf in tree.flatten(params).items()}


def test_check_shapes_accepts_what_fits():
    tree.check_shapes(PARAMS, shapes(PARAMS), "the export")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.update({"new": (4,)}), r"the export does not fit the model: missing new \(4,\)$"),
        (lambda e: e.pop("lm_head"), r"left over lm_head \(3, 5\)$"),
        (lambda e: e.update({"lm_head": (5, 3)}), r"lm_head has shape \(3, 5\), expected \(5, 3\)$"),
        (
            lambda e: e.update({"lm_haed": e.pop("lm_head")}),
            r"missing lm_haed \(3, 5\); left over lm_head \(3, 5\) \(did you mean 'lm_haed'\?\)$",
        ),
        (lambda e: e.update({f"p{i}": (1,) for i in range(9)}), r"missing p0 .*; missing p3 \(1,\) and 5 more$"),
    ],
)
def test_check_shapes_names_what_does_not_fit(edit, message):
    expected = shapes(PARAMS)
    edit(expected)
    with pytest.raises(UserError, match=message):
        tree.check_shapes(PARAMS, expected, "the export")


def test_count_and_table():
    assert tree.count_params(PARAMS) == 27
    assert tree.count_params({"scalar": np.float32(1)}) == 1
    lines = tree.parameter_table(PARAMS).splitlines()
    assert [line.split()[0] for line in lines] == ["encoder/layers_0/wi", "encoder/layers_0/wo", "lm_head", "total"]
    assert "(3, 2)" in lines[0]
    assert lines[0].endswith("float16")
    assert lines[-1].split()[-1] == "27"


def test_table_of_nothing():
    assert tree.parameter_table({}).split() == ["total", "0"]


def test_digest_names_paths_shapes_types_and_values():
    values = np.arange(6, dtype=np.float32)
    others = ({"b": values}, {"a": values.reshape(2, 3)}, {"a": values.view(np.int32)}, {"a": values[::-1]})
    assert len({tree.params_digest(params) for params in ({"a": values}, *others)}) == 5
    assert tree.params_digest({"a": values}) == tree.params_digest({"a": values.copy()})
