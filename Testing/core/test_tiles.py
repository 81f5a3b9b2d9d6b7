"""A region in pieces: together they are the whole, each fits the limit, and their seams lie where one pass halves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segviz_core.errors import InputError
from segviz_core.region import voxels
from segviz_core.tiles import BYTES_PER_HEAD, BYTES_PER_VOXEL, OVERLAP, PROGRAM_MB, tiles

REGION = slice(16, 176), slice(0, 144), slice(7, 1015)


def test_a_region_within_the_limit_is_one_piece():
    assert tiles(REGION, 16, heads=4, memory_mb=4000, held_mb=800) == [(REGION, REGION)]


@given(multiple=st.sampled_from([4, 16, 32]), heads=st.integers(1, 12), memory_mb=st.floats(2400, 3500))
def test_tiles_cover_the_region_once_and_each_fits_the_limit(multiple, heads, memory_mb):
    pieces = tiles(REGION, multiple, heads=heads, memory_mb=memory_mb, held_mb=786)
    cores = [core[2] for _, core in pieces]
    assert [cores[0].start, *(core.stop for core in cores)] == [*(core.start for core in cores), cores[-1].stop]
    assert (cores[0].start, cores[-1].stop) == (7, 1015)
    for box, core in pieces:
        assert box[:2] == core[:2] == REGION[:2]
        assert core[2].start - box[2].start >= OVERLAP or box[2].start == 7
        assert box[2].stop - core[2].stop >= OVERLAP or box[2].stop == 1015
        assert (box[2].start - 7) % multiple == 0
        if len(pieces) > 1:
            taken = voxels(box) * (BYTES_PER_VOXEL + heads * BYTES_PER_HEAD) / 1e6
            assert taken <= memory_mb - 786 - PROGRAM_MB + 1e-6


def test_a_limit_below_the_smallest_tile_says_what_it_takes():
    with pytest.raises(InputError, match=r"at least (.*) GB for this CT, found 1\.2\.") as refused:
        tiles(REGION, 16, heads=4, memory_mb=1200, held_mb=786)
    assert "--memory-gb" in refused.value.hint
    enough = float(refused.value.message.split("least ")[1].split()[0]) * 1000
    assert len(tiles(REGION, 16, heads=4, memory_mb=enough, held_mb=786)) > 1
