"""Trunks: cut from a base, digested, saved and loaded."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permafrost.errors import CutError, OptionError, StoreError, WeightsError
from permafrost.store.store import Store
from permafrost.trunk.bases import Base
from permafrost.trunk.cutting import TRUNK_FILE, Trunk, build_trunks, find_layer, load_trunk, merge_trunks, save_trunk
from permafrost.trunk.graph import architecture_digest, require_finite, weights_digest
from samples import PX, tiny_model

PIXELS = np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3)).astype(np.float32)
LAYERS = ["pixels_in", "scale", "stem", "stem_norm", "left", "right", "joined", "top"]


def base_of(model: keras.Model, *, preprocessing: str = "none") -> Base:
    return Base(
        model=model,
        name="tiny",
        weights_source="tiny.keras",
        preprocessing=preprocessing,
        image_size=tuple(model.inputs[0].shape[1:3]),
    )


@pytest.fixture(scope="module")
def base() -> Base:
    """The tiny base. Not to be changed."""
    return base_of(tiny_model())


def trunk_of(base: Base, cut: str | int | None = None, **options) -> Trunk:
    return build_trunks(base, [cut], **options)[0]


# Finding a layer


@given(index=st.integers(-len(LAYERS), len(LAYERS) - 1))
def test_a_layer_is_found_by_name_by_index_and_from_the_end(base, index):
    name = LAYERS[index]

    assert find_layer(base.model, name) == name
    assert find_layer(base.model, index) == name
    assert find_layer(base.model, str(index)) == name


def test_the_default_cut_is_the_last_layer(base):
    assert find_layer(base.model, None) == "top"


@given(index=st.integers().filter(lambda index: not -len(LAYERS) <= index < len(LAYERS)))
def test_an_index_out_of_range_is_refused_with_the_range(base, index):
    with pytest.raises(CutError, match=rf"tiny has no layer {index}; expected -8 to 7, found {index}"):
        find_layer(base.model, index)


@pytest.mark.parametrize(("name", "near"), [("join", "joined"), ("stem_nrm", "stem_norm"), ("--5", ""), ("²", "")])
def test_an_unknown_layer_is_refused_with_the_nearest_names(base, name, near):
    with pytest.raises(CutError, match=rf"tiny has no layer {name}\. Try {near}"):
        find_layer(base.model, name)


# What a trunk computes


@pytest.mark.parametrize("cut", ["stem", "right", "joined", "top"])
def test_a_trunks_features_are_the_output_of_the_base_at_the_cut(base, cut):
    expected = keras.Model(base.model.inputs[0], base.model.get_layer(cut).output)(PIXELS)

    trunk = trunk_of(base, cut)

    assert np.array_equal(trunk.model(PIXELS), expected)
    assert trunk.spec.shapes == (expected.shape[1:],)
    assert trunk.spec.cut == cut
    assert trunk.base_layers == tuple(LAYERS)


def test_a_trunk_is_frozen(base):
    trunk = trunk_of(base, "top")

    assert trunk.model.trainable_weights == []
    assert not trunk.model.get_layer("stem_norm").trainable


@pytest.mark.parametrize(("pool", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_is_over_height_and_width(base, pool, reduce):
    trunk = trunk_of(base, "joined", pool=pool)

    assert np.allclose(trunk.model(PIXELS), reduce(trunk_of(base, "joined").model(PIXELS), axis=(1, 2)), atol=1e-6)
    assert trunk.spec.shapes == ((16,),)
    assert trunk.spec.pooling == pool


@pytest.mark.parametrize("rule", ["tf", "caffe", "torch"])
def test_a_trunk_has_its_preprocessing_inside(base, rule):
    prepared = keras.applications.imagenet_utils.preprocess_input(PIXELS.copy(), mode=rule)

    trunk = trunk_of(base_of(base.model, preprocessing=rule), "stem")

    assert np.allclose(trunk.model(PIXELS), trunk_of(base, "stem").model(prepared), atol=1e-4)
    assert trunk.spec.preprocessing == rule


def test_several_cuts_share_their_layers_and_are_computed_in_one_pass(base):
    cuts = ["stem", "joined", "top"]

    trunks = build_trunks(base, cuts, pool="avg")

    together = merge_trunks(trunks)(PIXELS)
    for cut, trunk, features in zip(cuts, trunks, together, strict=True):
        alone = trunk_of(base, cut, pool="avg")
        assert trunk.spec == alone.spec
        assert np.array_equal(features, alone.model(PIXELS))
    stems = {id(trunk.model.get_layer("stem")) for trunk in trunks}
    tensors = {id(trunk.model.get_layer("stem")._inbound_nodes[-1].output_tensors[0]) for trunk in trunks}
    assert len(stems) == len(tensors) == 1


def test_a_single_trunk_needs_no_merging(base):
    trunks = build_trunks(base, ["stem"])

    assert merge_trunks(trunks) is trunks[0].model


def test_features_computed_in_bfloat16_differ_slightly_and_are_float32(base):
    exact, rough = (trunk_of(base, "top", pool="avg", precision=kind) for kind in ("float32", "bfloat16"))
    expected, features = (trunk.model(PIXELS).numpy() for trunk in (exact, rough))

    assert rough.model.outputs[0].dtype == "float32"
    assert 0 < np.abs(features - expected).max() < 0.03 * np.abs(expected).max()
    assert rough.spec.weights == exact.spec.weights
    assert rough.spec.digest != exact.spec.digest
    assert all(variable.dtype == "float32" for variable in rough.model.weights)


# What is refused


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pool": "median"}, "unknown pool; expected none or avg or max, found median"),
        ({"precision": "float16"}, "unknown precision; expected float32 or bfloat16, found float16"),
        ({"dtype": "int8"}, "unknown dtype; expected float32 or float16, found int8"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones(base, options, line):
    with pytest.raises(OptionError, match=line):
        trunk_of(base, "top", **options)


@pytest.mark.parametrize("cuts", [["top", "top"], ["top", -1], [None, 7]])
def test_cutting_twice_at_one_layer_is_refused(base, cuts):
    with pytest.raises(CutError, match="the same layer is given twice; found top, top"):
        build_trunks(base, cuts)


def test_features_without_height_and_width_cannot_be_pooled():
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Flatten(name="flat")(pixels))

    with pytest.raises(CutError, match=r"layer flat has no height and width to pool over; .*found shape \(192,\)"):
        trunk_of(base_of(model), "flat", pool="avg")


def test_a_nested_model_cannot_be_the_cut_but_the_layer_after_it_can():
    pixels = keras.Input((PX, PX, 3))
    inner = tiny_model()
    base = base_of(keras.Model(pixels, keras.layers.GlobalAveragePooling2D(name="after")(inner(pixels))))

    with pytest.raises(CutError, match=r"layer joined is within the nested model tiny; expected a layer\. Cut at"):
        trunk_of(base, "joined")
    with pytest.raises(CutError, match=r"layer tiny is a nested model; expected a layer\. Cut at the layer after it"):
        trunk_of(base, "tiny")
    assert np.allclose(trunk_of(base, "after").model(PIXELS), inner(PIXELS).numpy().mean(axis=(1, 2)), atol=1e-6)


def test_a_layer_with_several_output_tensors_cannot_be_the_cut():
    pixels = keras.Input((8, 8, 3))
    outputs = keras.layers.LSTM(4, return_state=True, name="several")(keras.layers.Reshape((8, 24))(pixels))
    model = keras.Model(pixels, keras.layers.Concatenate(name="one")(outputs))

    with pytest.raises(CutError, match="layer several has 3 output tensors; expected one"):
        trunk_of(base_of(model), "several")


def test_features_of_no_fixed_size_are_refused():
    pixels = keras.Input((None, None, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(2, 3, strides=64, name="last")(pixels))
    base = Base(model=model, name="t", weights_source="none", preprocessing="none", image_size=(2, 2))

    with pytest.raises(CutError, match=r"the features of layer last have no fixed size|cannot take images of"):
        trunk_of(base, "last")


def poisoned(layer: str, value: float) -> Base:
    model = tiny_model()
    kernel = model.get_layer(layer).weights[0]
    array = kernel.numpy()
    array.reshape(-1)[7] = value
    kernel.assign(array)
    return base_of(model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_below_the_cut_must_be_finite(value):
    line = (
        r"weights of layer right from tiny\.keras are not finite; expected numbers, found 1 NaN or infinite of 576 in"
    )

    with pytest.raises(WeightsError, match=line):
        trunk_of(poisoned("right", value), "joined")


def test_weights_above_the_cut_need_not_be_finite(base):
    assert trunk_of(poisoned("right", np.nan), "stem_norm").spec == trunk_of(base, "stem_norm").spec


def test_the_first_layer_that_is_not_finite_is_named():
    model = poisoned("stem", np.nan).model
    model.get_layer("top").kernel.assign(np.full(model.get_layer("top").kernel.shape, np.nan))

    with pytest.raises(WeightsError, match="weights of layer stem from here"):
        require_finite(model, "here")


# Digests


def test_digests_of_a_model_are_pinned():
    # A change here makes every user compute every feature again. If that is intended, raise `trunk.spec.MEANING`.
    model = tiny_model()

    assert architecture_digest(model) == "b8b9c190f526c17665e9cda75bffafcebdcfdd4615b8cc9d0ea9f210973b136b"
    assert weights_digest(model) == "b78396fd439481230a7185d3434b63715995d21ffdd5831b91ed90f488036687"


def test_the_architecture_digest_does_not_depend_on_names_or_on_earlier_models():
    def unnamed() -> keras.Model:
        pixels = keras.Input((8, 8, 3))
        left, right = keras.layers.Conv2D(2, 3)(pixels), keras.layers.Conv2D(2, 3)(pixels)
        return keras.Model(pixels, keras.layers.Add()([left, right]))

    first = architecture_digest(unnamed())
    tiny_model(top="another_name")

    assert architecture_digest(unnamed()) == first
    assert architecture_digest(tiny_model(top="another_name")) == architecture_digest(tiny_model())


@pytest.mark.parametrize("change", [{"strides": 1}, {"activation": "gelu"}, {"activation": None}])
def test_a_setting_that_changes_features_changes_the_architecture_digest(change):
    assert architecture_digest(tiny_model(**change)) != architecture_digest(tiny_model())


def test_settings_without_effect_on_features_do_not_change_the_digest():
    def model(**settings) -> keras.Model:
        pixels = keras.Input((8, 8, 3))
        return keras.Model(pixels, keras.layers.BatchNormalization(**settings)(pixels))

    plain = architecture_digest(model())

    assert architecture_digest(model(momentum=0.5, gamma_initializer="zeros", beta_regularizer="l2")) == plain
    assert architecture_digest(model(epsilon=0.1)) != plain
    frozen = model()
    frozen.trainable = False
    assert architecture_digest(frozen) == plain


def joined(order: tuple[int, int], *, twice: bool = False) -> keras.Model:
    pixels = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(2, 3, activation="relu")
    branches = [first(pixels), keras.layers.Conv2D(2, 3, activation="tanh")(pixels)]
    if twice:
        branches[1] = first(pixels)
    return keras.Model(pixels, keras.layers.Concatenate()([branches[i] for i in order]))


def test_a_connection_changes_the_architecture_digest():
    digests = {architecture_digest(model) for model in (joined((0, 1)), joined((1, 0)), joined((0, 0)))}

    assert len(digests) == 3


def test_a_layer_used_twice_differs_from_two_layers():
    assert architecture_digest(joined((0, 1), twice=True)) != architecture_digest(joined((0, 1)))


def test_a_number_in_the_graph_changes_the_architecture_digest():
    def model(number: float) -> keras.Model:
        pixels = keras.Input((8, 8, 3))
        return keras.Model(pixels, keras.ops.multiply(pixels, np.full(3, number, np.float32)) + number)

    assert architecture_digest(model(2.0)) == architecture_digest(model(2.0))
    assert architecture_digest(model(2.0)) != architecture_digest(model(2.5))


def test_the_precision_of_a_layer_changes_the_architecture_digest():
    def model(dtype: str) -> keras.Model:
        pixels = keras.Input((8, 8, 3))
        return keras.Model(pixels, keras.layers.Conv2D(2, 3, dtype=dtype)(pixels))

    assert architecture_digest(model("mixed_float16")) != architecture_digest(model("float32"))


@pytest.fixture(scope="module")
def changing() -> keras.Model:
    """The tiny base under other names. A test may change its weights."""
    return tiny_model(top="renamed")


@settings(max_examples=10)
@given(data=st.data())
def test_the_weights_digest_depends_on_every_weight_and_on_nothing_else(base, changing, data):
    weights = base.model.get_weights()
    changing.set_weights(weights)
    assert weights_digest(changing) == weights_digest(base.model)
    array = weights[data.draw(st.integers(0, len(weights) - 1))].reshape(-1)
    place = data.draw(st.integers(0, array.size - 1))
    array[place] = np.nextafter(array[place], np.float32(np.inf))

    changing.set_weights(weights)

    assert weights_digest(changing) != weights_digest(base.model)
    assert architecture_digest(changing) == architecture_digest(base.model)


def test_digests_cover_nested_models():
    def wrapped(seed: int = 0, **changes) -> keras.Model:
        pixels = keras.Input((PX, PX, 3))
        return keras.Model(pixels, keras.layers.Flatten()(tiny_model(seed=seed, **changes)(pixels)))

    assert weights_digest(wrapped(seed=1)) != weights_digest(wrapped(seed=0))
    assert architecture_digest(wrapped(seed=1)) == architecture_digest(wrapped(seed=0))
    assert architecture_digest(wrapped(activation="gelu")) != architecture_digest(wrapped())


def test_layers_above_the_cut_do_not_change_the_spec(base):
    other = tiny_model(top="other_top")
    other.get_layer("other_top").kernel.assign(np.zeros(other.get_layer("other_top").kernel.shape))

    assert trunk_of(base_of(other), "joined").spec.digest == trunk_of(base, "joined").spec.digest


def test_everything_that_changes_a_feature_changes_the_trunks_digest(base):
    digests = [
        trunk_of(one, cut, **options).spec.digest
        for one, cut, options in (
            (base, "top", {}),
            (base, "joined", {}),
            (base, "top", {"pool": "avg"}),
            (base, "top", {"pool": "max"}),
            (base, "top", {"precision": "bfloat16"}),
            (base, "top", {"dtype": "float16"}),
            (base_of(base.model, preprocessing="tf"), "top", {}),
            (base_of(tiny_model(seed=1)), "top", {}),
            (base_of(tiny_model(strides=1)), "top", {}),
        )
    ]

    assert len(set(digests)) == len(digests)


def test_the_names_of_the_base_and_its_weights_file_do_not_change_the_digest(base):
    other = Base(model=base.model, name="other", weights_source="copy.keras", preprocessing="none", image_size=(PX, PX))

    assert trunk_of(other, "top").spec.digest == trunk_of(base, "top").spec.digest


# Keeping a trunk


def saved(trunk: Trunk, folder) -> Store:
    store = Store.create(folder, trunk.spec, about={"base_layers": list(trunk.base_layers)})
    save_trunk(trunk, store.folder)
    return store


@pytest.mark.parametrize(
    ("rule", "precision"), [("none", "float32"), ("tf", "float32"), ("caffe", "bfloat16"), ("torch", "float32")]
)
def test_a_loaded_trunk_has_the_same_features(base, tmp_path, rule, precision):
    trunk = trunk_of(base_of(base.model, preprocessing=rule), "joined", pool="max", precision=precision)
    store = saved(trunk, tmp_path)

    back = load_trunk(store.folder / TRUNK_FILE, store.spec, store.about["base_layers"])

    assert np.array_equal(back.model(PIXELS), trunk.model(PIXELS))
    assert back.spec == trunk.spec
    assert back.base_layers == trunk.base_layers


def test_an_existing_trunk_is_not_written_again(base, tmp_path):
    store = saved(trunk_of(base, "stem"), tmp_path)
    before = (store.folder / TRUNK_FILE).stat()

    save_trunk(trunk_of(base, "stem"), store.folder)

    assert (store.folder / TRUNK_FILE).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(("other", "field"), [({"seed": 1}, "weights"), ({"activation": "gelu"}, "architecture")])
def test_a_changed_trunk_is_refused_and_the_difference_named(base, tmp_path, other, field):
    store = saved(trunk_of(base, "stem"), tmp_path)
    (store.folder / TRUNK_FILE).unlink()
    changed = trunk_of(base_of(tiny_model(**other)), "stem")
    save_trunk(changed, store.folder)

    with pytest.raises(StoreError, match=rf"trunk\.keras is not the trunk of these features: {field}; expected"):
        load_trunk(store.folder / TRUNK_FILE, store.spec, store.about["base_layers"])


def test_a_missing_trunk_is_named_with_what_to_do(base, tmp_path):
    store = Store.create(tmp_path, trunk_of(base, "stem").spec, about={"base_layers": LAYERS})

    with pytest.raises(StoreError, match=r"no trunk at .*trunk\.keras\. Run the same extract again to save it"):
        load_trunk(store.folder / TRUNK_FILE, store.spec, store.about["base_layers"])


def test_a_damaged_trunk_is_an_error_of_the_store_with_what_to_do(base, tmp_path):
    store = saved(trunk_of(base, "stem"), tmp_path)
    path = store.folder / TRUNK_FILE
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(StoreError, match=r"damaged trunk: cannot open .*trunk\.keras.* Remove it and run the same ext"):
        load_trunk(path, store.spec, store.about["base_layers"])


# Real weights


def test_truncated_weights_can_be_cut_where_they_end_but_not_above(shared, inception):
    trunk = trunk_of(inception, "mixed8")
    features = trunk.model(np.random.default_rng(0).integers(0, 256, (1, 75, 75, 3)).astype(np.float32)).numpy()

    assert np.isfinite(features).all() and features.std() > 0
    with pytest.raises(WeightsError, match=r"weights of layer \w+ from inception_v3_weights.* are not finite"):
        trunk_of(inception, "mixed9")
