"""Explaining files: numbers in pixels of the original, names, and nothing ever lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import loss_attention as la
from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.errors import InputError
from loss_attention.explained.files import explain_files
from loss_attention.explained.sources import LONGEST_NAME, output_names

CLASSES = ("cat", "dog", "ewe")


def make_model(**options) -> la.PatchClassifier:
    torch.manual_seed(0)
    wanted = {"width": 0.05, "patch_kernel": 5, "image_size": (24, 24), "threshold": 0.9}
    wanted |= {"num_classes": 3, "class_names": CLASSES}
    model = la.create_model("vgg11_bn", **(wanted | options))
    for module in model.modules():  # running statistics as training leaves them: not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.01, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> la.PatchClassifier:
    return make_model()


def save_image(path: Path, size: tuple[int, int] = (30, 20), seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_json_is_what_the_model_says(model, tmp_path):
    file = save_image(tmp_path / "a.png", (60, 40))
    summary = explain_files(model, [file], tmp_path / "out")
    assert summary.written == [tmp_path / "out" / "a.json"]
    assert summary.unreadable == []
    found = read(summary.written[0])
    explanation = model.explain(to_tensor(read_image(file, 3), (24, 24))[None])
    assert found["file"] == str(file)
    assert (found["width"], found["height"]) == (60, 40)
    assert found["classes"] == list(CLASSES)
    best = int(explanation.logits.argmax())
    assert found["prediction"] == found["target"] == CLASSES[best]
    assert found["probability"] == found["probabilities"][best]
    assert found["probability"] == pytest.approx(float(explanation.logits.softmax(1).max()))
    np.testing.assert_allclose(found["logits"], explanation.logits[0], atol=1e-6)
    np.testing.assert_allclose(found["evidence"], explanation.evidence[0], atol=1e-6)
    np.testing.assert_allclose(found["patch_weights"], explanation.patch_weights[0], atol=1e-6)


def test_the_evidence_in_the_json_adds_up(model, tmp_path):
    for seed in range(5):
        save_image(tmp_path / "in" / f"{seed}.png", (20 + seed, 33), seed)
    summary = explain_files(model, [tmp_path / "in"], tmp_path / "out", batch_size=2)
    assert len(summary.written) == 5
    logits = set()
    for path in summary.written:
        found = read(path)
        sums = np.array(found["evidence"]).sum(axis=0)
        np.testing.assert_allclose(sums, found["logits"], atol=1e-4)
        assert np.sum(found["patch_weights"]) == pytest.approx(1, abs=1e-5)
        logits.add(tuple(found["logits"]))
    assert len(logits) == 5  # each image got its own answer


@pytest.mark.parametrize("head", ["attention", "capsule-loss-attention"])
@pytest.mark.parametrize("name", ["margin", "contrast", "evidence"])
def test_heads_with_evidence_say_what_they_show_of_it(name, head, tmp_path):
    file = save_image(tmp_path / "a.png")
    model = make_model(head=head)
    found = read(explain_files(model, [file], tmp_path / "out", map=name).written[0])
    shows = "contrast" if name == "margin" and found["margin_is_empty"] else name
    assert found["heat_map"]["shows"] == shows
    assert found["heat_map"]["unit"] == "logit units"
    np.testing.assert_allclose(np.sum(found["evidence"], axis=0), found["logits"], atol=1e-4)
    assert "summed over patches is its logit" in found["units"]


def test_the_margin_is_shown_and_stands_beside_the_evidence(model, tmp_path):
    file = save_image(tmp_path / "a.png")
    found = read(explain_files(model, [file], tmp_path / "out").written[0])
    evidence = np.array(found["evidence"])
    rivals = np.stack([np.delete(evidence, k, axis=1).max(axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(found["margin"], evidence - rivals, atol=1e-6)
    target = CLASSES.index(found["target"])
    np.testing.assert_allclose(found["target_margin"], np.array(found["margin"])[:, target])
    assert found["margin_is_empty"] is (max(found["target_margin"]) <= 0)
    assert found["versus"] is None
    assert "margin: evidence of a patch for a class less that for its closest" in found["units"]


def test_where_no_patch_puts_the_class_first_that_is_said(tmp_path):
    model, file = make_model(), save_image(tmp_path / "a.png")
    with torch.no_grad():
        model.head.classifier.bias[0] = 1e3
    written = explain_files(model, [file], tmp_path / "out", target="dog").written[0]
    found = read(written)
    assert found["margin_is_empty"] is True
    assert found["heat_map"] == {
        "shows": "contrast",
        "unit": "logit units",
        "note": "no patch puts this class first",
    }
    asked = explain_files(model, [file], tmp_path / "asked", target="dog", map="contrast")
    assert "note" not in read(asked.written[0])["heat_map"]
    # The same picture, but for the line that says so.
    with (
        Image.open(written.with_suffix(".png")) as one,
        Image.open(asked.written[0].with_suffix(".png")) as other,
    ):
        assert one.width == other.width
        assert 15 <= one.height - other.height <= 40
    by_method = explain_files(model, [file], tmp_path / "m", target="dog", method="margin")
    shown = read(by_method.written[0])["heat_map"]
    assert {name: shown[name] for name in ("shows", "unit", "note")} == found["heat_map"]
    other = explain_files(model, [file], tmp_path / "c", target="dog", method="contrast")
    assert shown["values"] == read(other.written[0])["heat_map"]["values"]


def test_why_this_class_and_not_that_one(model, tmp_path):
    file = save_image(tmp_path / "a.png")
    written = explain_files(model, [file], tmp_path / "out", target="ewe", versus="cat").written[0]
    found = read(written)
    assert found["heat_map"] == {"shows": "difference", "unit": "logit units"}
    said, evidence = found["versus"], np.array(found["evidence"])
    assert said["class"] == "cat"
    np.testing.assert_allclose(said["difference_of_evidence"], evidence[:, 2] - evidence[:, 0])
    gap = found["logits"][2] - found["logits"][0]
    assert said["difference_of_logits"] == pytest.approx(gap)
    assert sum(said["difference_of_evidence"]) == pytest.approx(gap)


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        ({}, {"target": "cat", "versus": "cat"}, "`versus` 'cat' is the `target` itself"),
        ({}, {"target": "cat", "versus": "kat"}, "unknown class 'kat'; did you mean 'cat'"),
        ({}, {"versus": "cat"}, "`versus` needs `target`"),
        ({}, {"map": "margins"}, "unknown map 'margins'; did you mean 'margin'"),
        ({}, {"map": "margin", "method": "cam"}, "`map` is for the model's own patches"),
        (
            {},
            {"target": "cat", "versus": "dog", "method": "cam"},
            "`versus` is for the model's own",
        ),
        ({"multi_label": True}, {"map": "margin"}, "`map` margin is for models of one label"),
        ({"one_vs_rest": True}, {"map": "contrast"}, "`map` contrast is for models of one label"),
        ({"head": "capsule-dynamic-routing"}, {"map": "margin"}, "`map` needs a head with exact"),
        ({"head": "baseline"}, {"map": "margin"}, "the head baseline has no patches"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_a_map_that_cannot_be_shown_is_refused_before_anything_is_written(
    options, asked, message, tmp_path
):
    file = save_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=message) as caught:
        explain_files(make_model(**options), [file], tmp_path / "out", **asked)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_head_without_evidence_says_so_instead_of_inventing_it(tmp_path):
    model, file = make_model(head="capsule-dynamic-routing"), save_image(tmp_path / "a.png")
    found = read(explain_files(model, [file], tmp_path / "out", target="dog").written[0])
    assert found["evidence"] is None
    assert found["heat_map"] == {"shows": "routing weight", "unit": "fraction of 1"}
    assert "evidence: null" in found["units"]
    assert "logits: log-odds" in found["units"]
    weights = model.explain(to_tensor(read_image(file, 3), (24, 24))[None], 1).patch_weights[0]
    np.testing.assert_allclose(found["patch_weights"], weights, atol=1e-6)
    assert sum(found["patch_weights"]) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "out" / "a.png").exists()


def test_boxes_and_windows_are_in_pixels_of_the_original(model, tmp_path):
    # 24 x 24 input pixels are 240 x 48 here: 10 across and 2 down.
    found = read(
        explain_files(model, [save_image(tmp_path / "a.png", (240, 48))], tmp_path / "o").written[0]
    )
    windows, selected = np.array(found["grid"]["windows"]), found["selected_patches"]
    assert (found["grid"]["rows"], found["grid"]["columns"]) == (5, 5)
    assert windows[0].tolist() == [0, 0, 50, 10]
    assert windows[7].tolist() == [80, 8, 130, 18]  # row 1, column 2
    assert selected == np.flatnonzero(found["patch_weights"]).tolist()
    assert 0 < len(selected) < 25
    low, high = windows[selected, :2].min(axis=0), windows[selected, 2:].max(axis=0)
    assert found["box"] == [*low, *high]


def test_boxes_of_large_photos_are_not_those_of_the_smaller_drawing(model, tmp_path):
    file = save_image(tmp_path / "a.png", (2400, 240))
    found = read(explain_files(model, [file], tmp_path / "out").written[0])
    assert found["width"] == 2400
    assert found["grid"]["windows"][4] == [1600, 0, 2100, 50]
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width == 1280


def test_results_of_a_padded_image_are_in_pixels_of_the_original_too(tmp_path):
    model = make_model(resize="pad")
    file = save_image(tmp_path / "a.png", (60, 30))  # becomes 24 x 12, six rows down
    found = read(explain_files(model, [file], tmp_path / "out").written[0])
    padded = to_tensor(read_image(file, 3), (24, 24), "pad")[None]
    explanation = model.explain(padded)
    assert found["logits"] == pytest.approx(explanation.logits[0].tolist(), abs=1e-5)
    for window, seen in zip(found["grid"]["windows"], explanation.grid.windows(), strict=True):
        x0, y0, x1, y1 = (seen * 2.5 - torch.tensor([0, 15, 0, 15])).tolist()
        expected = [max(0, x0), min(30, max(0, y0)), min(60, x1), min(30, max(0, y1))]
        assert window == pytest.approx(expected, abs=0.01)
    x0, y0, x1, y1 = found["box"]
    assert 0 <= x0 <= x1 <= 60
    assert 0 <= y0 <= y1 <= 30
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width == 384  # a square with the border that the model saw, not 768 x 384


def test_a_turned_photo_is_explained_upright(model, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = save_image(tmp_path / "turned.png", (60, 40), exif=exif)
    with Image.open(turned) as image:
        image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    files = [turned, tmp_path / "upright.png"]
    first, second = map(read, explain_files(model, files, tmp_path / "out").written)
    assert (first["width"], first["height"]) == (40, 60)
    assert first["selected_patches"] == second["selected_patches"]
    np.testing.assert_allclose(first["evidence"], second["evidence"], atol=1e-4)


def test_the_picture_shows_the_prediction(model, tmp_path):
    file = save_image(tmp_path / "a.jpg", (30, 20))
    explain_files(model, [file], tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 576  # 30 x 20 enlarged to 576 x 384
        assert picture.height > 384


def test_each_picture_of_a_batch_is_of_its_own_image(model, tmp_path):
    files = [save_image(tmp_path / f"{seed}.png", seed=seed) for seed in range(2)]
    for batch_size in (1, 2):
        explain_files(model, files, tmp_path / f"by-{batch_size}", batch_size=batch_size)
    pictures = []
    for name in ("0.png", "1.png"):
        alone, together = (
            np.asarray(Image.open(tmp_path / folder / name)).astype(int)
            for folder in ("by-1", "by-2")
        )
        assert np.abs(alone - together).mean() < 0.1  # rounding of the model's arithmetic
        pictures.append(together)
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


def test_a_file_that_is_no_image_is_named_and_the_rest_go_on(model, tmp_path):
    good = save_image(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:200])
    summary = explain_files(model, [bad, good, cut], tmp_path / "out", batch_size=1)
    assert [path.name for path in summary.written] == ["good.json"]
    assert ["bad.png" in line or "cut.png" in line for line in summary.unreadable] == [True] * 2
    assert listing(tmp_path / "out") == ["good.json", "good.png"]


def test_nothing_is_written_over_unless_asked(model, tmp_path):
    files = [save_image(tmp_path / name) for name in ("a.png", "b.png")]
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.json").write_text("precious")
    with pytest.raises(InputError, match=r"b\.json exists already.*`overwrite`"):
        explain_files(model, files, out)
    assert listing(out) == ["b.json"]  # not even the first was begun
    assert (out / "b.json").read_text() == "precious"
    explain_files(model, files, out, overwrite=True)
    assert read(out / "b.json")["file"] == str(files[1])


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_image_is_never_replaced_by_its_own_explanation(model, tmp_path, overwrite):
    file = save_image(tmp_path / "a.png")
    before = file.read_bytes()
    with pytest.raises(InputError, match="one of the images"):
        explain_files(model, [file], tmp_path, overwrite=overwrite)
    assert file.read_bytes() == before
    assert listing(tmp_path) == ["a.png"]


def test_results_inside_the_folder_are_not_explained_in_turn(model, tmp_path):
    save_image(tmp_path / "a.jpg")
    out = tmp_path / "explained"
    for _ in range(2):
        assert len(explain_files(model, [tmp_path], out, overwrite=True).written) == 1
    assert listing(out) == ["a.json", "a.png", "contact-sheet.jpg", "index.html"]
    with pytest.raises(InputError, match="`out` folder itself"):
        explain_files(model, [tmp_path], tmp_path)


def test_a_file_named_twice_is_explained_once(model, tmp_path):
    file = save_image(tmp_path / "in" / "a.png")
    paths = [file, tmp_path / "in", tmp_path / "in" / ".." / "in" / "a.png"]
    assert len(explain_files(model, paths, tmp_path / "out").written) == 1


def test_files_of_one_name_get_distinct_results(model, tmp_path):
    names = ("x/a.jpg", "x/a.png", "y/A.png", "y/b.png", "z/a.png")
    files = [save_image(tmp_path / "in" / name, seed=i) for i, name in enumerate(names)]
    summary = explain_files(model, [tmp_path / "in"], tmp_path / "out")
    assert len({path.name.casefold() for path in summary.written}) == 5
    assert {read(path)["file"] for path in summary.written} == set(map(str, files))
    assert "b.json" in listing(tmp_path / "out")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b.jpg"], ["a", "b"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "A.png"], ["a.jpg", "A.png"]),
        (["x/a.jpg", "y/a.jpg"], ["x-a.jpg", "y-a.jpg"]),
        (["p/x/a.jpg", "q/x/a.jpg", "r/x/a.jpg"], ["x-a.jpg", "x-a.jpg-2", "x-a.jpg-3"]),
        # The stem of the second is, but for its case, the name of the first.
        (["a.png", "A.png.jpg", "a.jpg"], ["a.png", "A.png-2", "a.jpg"]),
    ],
)
def test_names_tell_files_apart(paths, names):
    found = output_names([Path(path) for path in paths])
    assert len({name.casefold() for name in found}) == len(paths)
    assert found == names


def test_long_names_are_cut_to_what_file_systems_take(model, tmp_path):
    files = [save_image(tmp_path / ("é" * 122 + f"{i}.png"), seed=i) for i in range(2)]
    summary = explain_files(model, files, tmp_path / "out")
    assert len(summary.written) == 2
    assert all(len(path.stem.encode()) <= LONGEST_NAME + 2 for path in summary.written)


def test_a_class_can_be_named_to_explain(model, tmp_path):
    file = save_image(tmp_path / "a.png")
    plain = read(explain_files(model, [file], tmp_path / "plain").written[0])
    other = next(name for name in CLASSES if name != plain["prediction"])
    found = read(explain_files(model, [file], tmp_path / "other", target=other).written[0])
    assert found["target"] == other
    assert found["prediction"] == plain["prediction"]
    assert found["evidence"] == plain["evidence"]
    assert (tmp_path / "plain/a.png").read_bytes() != (tmp_path / "other/a.png").read_bytes()


def test_grey_images_go_to_grey_models(tmp_path):
    file = save_image(tmp_path / "a.png")
    written = explain_files(make_model(in_channels=1), [file], tmp_path / "out").written
    assert len(written) == 1


def test_multi_label_probabilities_are_sigmoids(tmp_path):
    file = save_image(tmp_path / "a.png")
    found = read(explain_files(make_model(multi_label=True), [file], tmp_path / "o").written[0])
    expected = 1 / (1 + np.exp(-np.array(found["logits"])))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize("method", [None, "evidence"])
def test_probabilities_of_one_vs_rest_are_sigmoids_and_the_json_says_so(method, tmp_path):
    file, model = save_image(tmp_path / "a.png"), make_model(one_vs_rest=True)
    found = read(explain_files(model, [file], tmp_path / "o", method=method).written[0])
    expected = 1 / (1 + np.exp(-np.array(found["logits"])))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
    assert found["prediction"] == CLASSES[expected.argmax()]
    assert found["heat_map"]["shows"] == "evidence"
    assert found["units"].count("of each class by itself against all others") == 1


def test_progress_counts_files_to_the_end(model, tmp_path):
    for seed in range(5):
        save_image(tmp_path / "in" / f"{seed}.png", seed=seed)
    said = []
    explain_files(
        model,
        [tmp_path / "in"],
        tmp_path / "out",
        batch_size=2,
        progress=lambda done, total: said.append((done, total)),
    )
    assert said[-1] == (5, 5)
    assert said == sorted(said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "baseline"}, "no patches.*loss-attention"),
        ({"image_size": None}, "image size"),
    ],
)
def test_models_that_cannot_explain_files_say_so_before_any_work(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        explain_files(make_model(**options), [save_image(tmp_path / "a.png")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_named_wrong_stops_before_any_work(model, tmp_path):
    file = save_image(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    with pytest.raises(InputError, match="unknown class 'cta'; did you mean 'cat'"):
        explain_files(model, [file], out, target="cta")
    with pytest.raises(InputError, match=r"no file or folder .*missing"):
        explain_files(model, [file, tmp_path / "missing.png"], out)
    with pytest.raises(InputError, match="empty holds no images"):
        explain_files(model, [file, tmp_path / "empty"], out)
    assert not out.exists()
    with pytest.raises(
        InputError, match=r"cannot make the folder .*a\.png is a file; name another"
    ):
        explain_files(model, [file], file)


def test_damaged_weights_are_said_and_no_json_is_left(tmp_path):
    broken = make_model()
    torch.nn.init.constant_(broken.head.classifier.bias, torch.nan)
    with pytest.raises(InputError, match="not finite"):
        explain_files(broken, [save_image(tmp_path / "a.png")], tmp_path / "out")
    assert listing(tmp_path / "out") == []


def test_what_a_folder_holds_beside_images_is_named(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    save_image(folder / "a.png")
    (folder / "b.heic").write_bytes(b"x")
    (folder / "c").write_bytes((folder / "a.png").read_bytes())
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "again").symlink_to(".")
    (folder / "twice.png").symlink_to("a.png")
    os.mkfifo(folder / "pipe.png")
    summary = explain_files(model, [folder], tmp_path / "out")
    assert [path.name for path in summary.written] == ["a.json"]
    assert summary.unread == [
        "1 file .heic is not read (b.heic): `pip install pillow-heif` reads them",
        "1 file without suffix is not read (c): PNG by the content; end the name in .png",
    ]
    assert summary.unreadable == ["pipe.png cannot be read as an image: it is a named pipe"]
    with pytest.raises(InputError, match="is neither a file nor a folder"):
        explain_files(model, [folder / "pipe.png"], tmp_path / "out2")
    (folder / "a.png").unlink()
    with pytest.raises(InputError, match=r"holds no images \(.*b\.heic.*pillow-heif"):
        explain_files(model, [folder], tmp_path / "out3")


def test_names_that_are_no_utf_8(model, tmp_path):
    file = save_image(tmp_path / os.fsdecode(b"\xff[b]\xe9.png"))
    summary = explain_files(model, [file], tmp_path / "out")
    assert os.fsencode(summary.written[0].name) == b"\xff[b]\xe9.json"
    assert read(summary.written[0])["file"] == str(file)
