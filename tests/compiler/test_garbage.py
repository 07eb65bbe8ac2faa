import gc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from mlc.compiler.garbage import rare_collections


@pytest.fixture
def threshold():
    before = gc.get_threshold()
    gc.set_threshold(500, 7, 9)
    yield (500, 7, 9)
    gc.set_threshold(*before)


def test_collections_are_rare_inside_only(threshold):
    with pytest.raises(ValueError), rare_collections():
        with rare_collections():
            assert gc.get_threshold() == (100_000, 7, 9)
        assert gc.get_threshold() == (100_000, 7, 9)
        raise ValueError
    assert gc.get_threshold() == threshold


@pytest.mark.parametrize("own", [0, 1_000_000])
def test_rarer_ones_stay_as_they_are(threshold, own):
    gc.set_threshold(own, 7, 9)
    with rare_collections():
        assert gc.get_threshold() == (own, 7, 9)
    assert gc.get_threshold() == (own, 7, 9)


def test_threads_share_the_threshold(threshold):
    begun, half = Barrier(2), Barrier(2)

    def first():
        with rare_collections():
            begun.wait(10)
        half.wait(10)

    def second():
        with rare_collections():
            begun.wait(10)
            half.wait(10)
            return gc.get_threshold()

    with ThreadPoolExecutor(2) as pool:
        jobs = pool.submit(first), pool.submit(second)
        jobs[0].result(20)
        assert jobs[1].result(20) == (100_000, 7, 9)
    assert gc.get_threshold() == threshold
