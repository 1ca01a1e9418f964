import warnings

import pytest

from keras_sgdr.models import onednn

WITHOUT_VNNI = "processor : 0\nflags\t\t: fpu sse4_2 avx avx2 fma\n"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Pretends to be on another processor, with the setting not made."""

    def pretend(flags):
        (tmp_path / "cpuinfo").write_text(flags)
        monkeypatch.setattr(onednn, "_CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.delenv(onednn.VARIABLE, raising=False)
        onednn.advise_onednn.cache_clear()

    yield pretend
    onednn.advise_onednn.cache_clear()


def test_processor_that_would_gain_is_told_once(processor):
    processor(WITHOUT_VNNI)
    with pytest.warns(UserWarning, match="Set TF_ENABLE_ONEDNN_OPTS=1 in the environment before TensorFlow"):
        onednn.advise_onednn()
    onednn.advise_onednn()  # a second warning would be an error


@pytest.mark.parametrize(
    "flags", ["flags : avx2 avx512_vnni\n", "flags : avx2 avx_vnni\n", "flags : sse4_2\n", "Hardware : ARM\n"]
)
def test_processor_that_would_not_gain_is_told_nothing(processor, flags):
    processor(flags)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        onednn.advise_onednn()
    assert not told


@pytest.mark.parametrize("value", ["0", "1"])
def test_users_own_choice_is_left_alone(processor, monkeypatch, value):
    processor(WITHOUT_VNNI)
    monkeypatch.setenv(onednn.VARIABLE, value)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        onednn.advise_onednn()
    assert not told
