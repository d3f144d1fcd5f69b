from pathlib import Path

from alignkd_lab import paths


def test_a_checkout_reads_its_own_data_folder():
    assert paths.data_folder() == Path(__file__).parent.parent / "data"


def test_an_installed_package_reads_the_data_inside_it(tmp_path, monkeypatch):
    package = tmp_path / "alignkd_lab"
    (tmp_path / "data").mkdir()  # another project's folder beside it in site-packages
    monkeypatch.setattr(paths, "_PACKAGE", package)
    assert paths.data_folder() == package / "_data"


def test_the_cache_can_be_put_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_CACHE", str(tmp_path / "elsewhere"))
    assert paths.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("ALIGNKD_CACHE")
    assert paths.cache_folder().name == "alignkd"


def test_what_a_learner_writes_lies_apart_from_project_and_cache_and_can_be_put_elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGNKD_ANSWERS", raising=False)
    assert paths.learner_folder() != paths.cache_folder()
    assert paths.checkout_folder() not in paths.learner_folder().parents
    monkeypatch.setenv("ALIGNKD_ANSWERS", str(tmp_path / "mine"))
    assert paths.learner_folder() == tmp_path / "mine"
