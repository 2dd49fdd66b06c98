"""Which observed band a k-correction starts from: FastSpecFit's switches, and a pair without any."""

import numpy as np
import pytest

from astro_utils.kcorrections.band_rule import FixedBand, NearestBand


@pytest.mark.parametrize(
    ("output", "system", "expected"),
    [
        ("r", "BASS/MzLS", [(0.3886, "r", "z")]),
        ("r", "DECam", [(0.0068, "g", "r"), (0.3884, "r", "z")]),
        ("g", "BASS/MzLS", [(0.3033, "g", "r"), (0.8144, "r", "z")]),
        ("g", "DECam", [(0.3156, "g", "r"), (0.8143, "r", "z")]),
        ("z", "DECam", []),  # at every redshift the reddest band is the nearest
    ],
)
def test_switches_are_where_fastspecfit_has_them(output, system, expected):
    found = NearestBand(output, system).switches()
    assert [step[1:] for step in found] == [step[1:] for step in expected]
    np.testing.assert_allclose([step[0] for step in found], [step[0] for step in expected], atol=1e-4)


@pytest.mark.parametrize("system", ["BASS/MzLS", "DECam", "SDSS"])
@pytest.mark.parametrize("output", ["g", "r", "i"])
def test_the_index_changes_at_the_switches_and_nowhere_else(system, output):
    rule = NearestBand(output, system)
    z = np.linspace(0.0001, 1.2, 4001)
    index = rule.index(z)
    changes = [(z[i], rule.bands[index[i]], rule.bands[index[i + 1]]) for i in np.flatnonzero(np.diff(index))]
    expected = [step for step in rule.switches() if step[0] < z[-1]]
    assert [c[1:] for c in changes] == [e[1:] for e in expected]
    np.testing.assert_allclose([c[0] for c in changes], [e[0] for e in expected], atol=4e-4)


def test_without_a_band_shift_the_switches_come_earlier():
    shifted, plain = (NearestBand("r", "DECam", shift).switches()[-1][0] for shift in (0.1, 0.0))
    assert (1 + plain) * 1.1 == pytest.approx(1 + shifted)


def test_a_k_correction_jumps_at_a_switch_and_not_with_a_fixed_pair():
    z = np.array([0.38, 0.3883, 0.3885, 0.4])
    k = np.stack([9 + z, z, 2 + z], axis=1)  # from g, r and z
    np.testing.assert_allclose(NearestBand("r", "DECam").pick(z, k), z + np.array([0, 0, 2, 2]))
    np.testing.assert_allclose(FixedBand("r", "DECam").pick(z, k), z)
    np.testing.assert_allclose(FixedBand("r", "DECam", "z").pick(z, k), z + 2)
    assert FixedBand("r", "DECam").switches() == ()


def test_wrong_bands_and_shapes():
    with pytest.raises(ValueError, match="output band 'y'; expected one of u, g, r, i, z"):
        NearestBand("y", "DECam")
    with pytest.raises(ValueError, match="system 'HSC'; expected one of BASS/MzLS, DECam, SDSS"):
        NearestBand("r", "HSC")
    with pytest.raises(ValueError, match="band_shift must be above -1"):
        NearestBand("r", "DECam", band_shift=-1)
    with pytest.raises(ValueError, match="band of DECam 'u'; expected one of g, r, z"):
        FixedBand("u", "DECam")
    with pytest.raises(ValueError, match=r"finite numbers above -1; found -9999"):
        NearestBand("r", "DECam").index(np.array([0.1, -9999]))
    with pytest.raises(ValueError, match="found nan"):
        FixedBand("r", "DECam").index(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"k has shape \(2, 2\); expected \(2, 3\), bands g, r, z"):
        NearestBand("r", "DECam").pick(np.array([0.1, 0.2]), np.zeros((2, 2)))
