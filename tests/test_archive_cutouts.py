"""Cut-outs of the Legacy Surveys, from a server on this machine."""

import io
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from archive_server import recorded, running
from astropy.io import fits

from astro_utils.archive_client import ArchiveError
from astro_utils.archive_cutouts import fetch_legacy_cutouts, legacy_cutout_url


@pytest.fixture
def server(monkeypatch):
    with running(monkeypatch) as server:
        yield server


def cutout(image):
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.asarray(image, dtype=np.float32)).writeto(buffer)
    return buffer.getvalue()


def test_the_address_of_a_cutout():
    address = legacy_cutout_url(187.25, -3.5, 64, bands="g")
    assert address.startswith(
        "https://www.legacysurvey.org/viewer/fits-cutout?ra=187.2500000&dec=-3.5000000&"
    )
    assert parse_qs(urlsplit(address).query) == {
        "ra": ["187.2500000"],
        "dec": ["-3.5000000"],
        "size": ["64"],
        "layer": ["ls-dr9"],
        "pixscale": ["0.262"],
        "bands": ["g"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((360.0, 0.0), r"position is \(360.0, 0.0\)"),
        ((0.0, np.nan), "position is"),
        ((0.0, 0.0, 3001), "got 3001 pixels of 0.262 arcsec; expected 1 to 3000"),
        ((0.0, 0.0, 64, 0.0), "got 64 pixels of 0.0 arcsec"),
    ],
)
def test_a_wrong_cutout_is_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        legacy_cutout_url(*arguments)


@pytest.mark.parametrize(("bands", "shape"), [("grz", (3, 16, 16)), ("r", (16, 16))])
def test_cutouts_arrive_and_empty_sky_is_none(server, tmp_path, bands, shape):
    server.said = [(200, cutout(np.ones(shape))), (200, cutout(np.zeros(shape)))]
    ra, dec = [150.0, 20.0], [2.2, 80.0]
    paths = fetch_legacy_cutouts(ra, dec, tmp_path, 16, bands=bands)
    assert paths[1] is None and (fits.getdata(paths[0]) == 1).all()
    assert f"bands={bands}" in server.requests[0] and "dec=80.0000000" in server.requests[1]
    assert fetch_legacy_cutouts(ra, dec, tmp_path, 16, bands=bands) == paths
    assert len(server.requests) == 2, "both answers are kept"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (recorded("error.html"), "not a whole FITS image"),
        (b"", "not a whole FITS image"),
        (cutout(np.ones((3, 64, 64)))[:-5760], "not a whole FITS image"),
        (cutout(np.ones((3, 64, 64)))[:-100], "not a whole FITS image: .*truncated"),
        (cutout(np.ones((2, 64, 64))), r"shape \(2, 64, 64\); expected \(3, 64, 64\)"),
        (cutout(np.ones((3, 32, 32))), r"shape \(3, 32, 32\)"),
    ],
)
def test_a_wrong_image_is_refused(server, tmp_path, body, message):
    server.said = [(200, body)] * 3
    with pytest.raises(ArchiveError, match=rf"fits-cutout\?ra=150.* sent a wrong file \(.*{message}"):
        fetch_legacy_cutouts([150.0], [2.2], tmp_path, 64)
    assert list(tmp_path.iterdir()) == []
