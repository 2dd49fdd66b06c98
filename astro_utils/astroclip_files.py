"""AstroCLIP's galaxies, as their authors publish them, and DESI spectra with the photometry of their targets.

AstroCLIP's data are images in g, r, z of the Legacy Surveys and DESI spectra of the same galaxies (Parker et
al. 2024, MNRAS, 531, 4990): one HDF5 file, or Parquet or Arrow files of the hub. Positions and the noise of
the spectra are not among them. What is decided about that is recorded as provenance.

    counts = write_astroclip("astroclip_desi.1.1.5.h5", "astroclip.h5")
    block = desi_with_photometry("coadd-1.fits", "redrock-1.fits", "tractor-1.fits")
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from astro_utils.cutouts import FLAGS_COLUMN, SKY_COLUMNS, flag_images
from astro_utils.samples import Block, Column, SampleInfo, Spectra, write_sample
from astro_utils.spectra_files import DESI_WAVELENGTH

__all__ = [
    "ASTROCLIP",
    "astroclip_blocks",
    "write_astroclip",
]

#: The sample of :func:`astroclip_blocks`.
ASTROCLIP = SampleInfo(
    survey="desi",
    sky="real",
    bands="grz",
    pixel_scale=0.262,
    provenance={
        "source": "AstroCLIP 1.1.5 (Parker et al. 2024, MNRAS 531, 4990): images of the Legacy Surveys DR9, "
        "spectra of the DESI Early Data Release",
        "assumed": "inverse variances of spectra from the scatter between pixels, positions NaN: upstream "
        "has neither",
    },
)

_N_GROUPS, _SIZE = 10, 152
#: Shapes of one galaxy in the published files.
_SHAPES = {"image": ((_SIZE, _SIZE, 3),), "spectrum": ((len(DESI_WAVELENGTH), 1), (len(DESI_WAVELENGTH),))}
_SHAPES |= {"redshift": ((),), "targetid": ((),)}

_COLUMNS = {
    "object_id": Column("", "DESI TARGETID"),
    **{name: Column(c.unit, c.description + "; upstream has none: NaN") for name, c in SKY_COLUMNS.items()},
    "brickid": Column("", "Legacy Survey brick of the target, a quarter of a degree wide, by which to split"),
    "z": Column("", "DESI redshift; not above 0 where it is no galaxy's"),
    "published_split": Column("", "train or test of the published split; empty where the file does not say"),
    "duplicate": Column("", "whether an earlier row has the same TARGETID"),
    "flags": FLAGS_COLUMN,
}


# ------------------------------------------------------------------------------------- AstroCLIP's files


def astroclip_blocks(
    source: str | Path, *, groups: Sequence[int] = range(_N_GROUPS), block_size: int = 256
) -> Iterator[Block]:
    """Read AstroCLIP's galaxies block by block, for the files exceed the memory.

    Parameters
    ----------
    source : str or Path
        The HDF5 file, with groups ``0`` to ``9`` of ``images`` (n, 152, 152, 3), ``spectra`` (n, 7781, 1) or
        (n, 7781), ``redshifts`` and ``targetids`` (n,); or a ``.parquet`` or ``.arrow`` file with the columns
        image, spectrum, redshift and targetid; or a folder of these, as the hub or ``save_to_disk`` makes it.
    groups : sequence of int
        Which groups of the HDF5 file are read.
    block_size : int
        Galaxies in a block, which takes 0.3 MB for each.

    Yields
    ------
    Block
        With images, spectra and the columns ``brickid``, ``z``, ``published_split``, ``duplicate`` and
        ``flags``. No row is dropped. The axes of the published images are (x, y, band); here they are (band,
        y, x). The inverse variance of a spectrum is one number, that of the noise between neighbouring pixels
        (Stoehr et al. 2008, ASPC 394, 505), and 0 where a pixel is not finite: enough to weigh one spectrum
        against another, but not to weigh its pixels.

    Raises
    ------
    FileNotFoundError
        When there is no such file, or none in the folder.
    ValueError
        Naming the file, the group and the array or column: not of that format, missing, of another shape or
        length than expected.

    Notes
    -----
    In each group the first 80 % of the rows are the published training set and the others the test set. The
    hub's files have it in their names or in those of their folders.
    """
    seen: set[int] = set()
    for images, spectra, redshifts, targets, split in _pieces(Path(source), groups, block_size):
        stamps, flags = flag_images(images.transpose(0, 3, 2, 1))
        duplicate = np.zeros(len(targets), bool)
        for row, target in enumerate(targets.tolist()):
            duplicate[row] = target in seen
            seen.add(target)
        catalogue = pd.DataFrame({"object_id": targets.astype(np.int64), "ra": np.nan, "dec": np.nan})
        # Bits 0-21 of a TARGETID hold the source in the brick, 22-41 the brick, 42-57 the release
        # (targetid_mask of desitarget; Myers et al. 2023, AJ, 165, 50).
        catalogue["brickid"] = (targets.astype(np.int64) >> 22) & ((1 << 20) - 1)
        catalogue["z"] = redshifts.astype(float)
        catalogue = catalogue.assign(published_split=split, duplicate=duplicate, flags=flags)
        yield Block(catalogue[list(_COLUMNS)], _COLUMNS, stamps, _spectra(spectra))


def write_astroclip(
    source: str | Path, path: str | Path, *, groups: Sequence[int] = range(_N_GROUPS), block_size: int = 256
) -> dict[str, int]:
    """Write AstroCLIP's galaxies as a sample, and count what is in it.

    Parameters
    ----------
    source, groups, block_size
        As for :func:`astroclip_blocks`.
    path : str or Path
        Of the sample.

    Returns
    -------
    dict of str to int
        ``objects``; of these ``train``, ``test`` and ``no split``; ``duplicates`` of an earlier TARGETID, and
        TARGETIDs ``in both splits``; ``flagged`` images; and those with ``redshift not above 0``.
    """
    counts, targets = Counter(), {"train": set(), "test": set()}

    def counted() -> Iterator[Block]:
        for block in astroclip_blocks(source, groups=groups, block_size=block_size):
            table = block.catalogue
            counts["objects"] += len(table)
            for name, split in (("train", "train"), ("test", "test"), ("no split", "")):
                counts[name] += int((table["published_split"] == split).sum())
            for split, known in targets.items():
                known |= set(table["object_id"][table["published_split"] == split])
            counts["duplicates"] += int(table["duplicate"].sum())
            counts["in both splits"] = len(targets["train"] & targets["test"])
            counts["flagged"] += int((table["flags"] > 0).sum())
            counts["redshift not above 0"] += int((~(table["z"] > 0)).sum())
            yield block

    write_sample(path, counted(), ASTROCLIP)
    return dict(counts)


def _spectra(flux: np.ndarray) -> Spectra:
    """Spectra (N, L) with one inverse variance each, from second differences of every other pixel."""
    good = np.isfinite(flux)
    second = flux[:, 2:-2] - (flux[:, :-4] + flux[:, 4:]) / 2
    second = np.ma.masked_invalid(np.abs(second))
    noise = 1.4826 * np.ma.median(second, axis=1).filled(0) / np.sqrt(1.5)  # of a difference of three pixels
    ivar = np.where(noise > 0, 1 / np.where(noise > 0, noise, 1) ** 2, 0)[:, None]
    values = (np.where(good, flux, 0), np.where(good, ivar, 0))
    return Spectra(DESI_WAVELENGTH, *(part.astype(np.float32) for part in values))


_Piece = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _pieces(source: Path, groups: Sequence[int], block_size: int) -> Iterator[_Piece]:
    """Images, spectra (N, L), redshifts, targets and the split of some galaxies at a time."""
    if source.suffix in (".h5", ".hdf5"):
        yield from _hdf5_pieces(source, groups, block_size)
        return
    if source.is_dir():
        # A cache of the hub's library is a copy of the rows, changed in some way.
        found = sorted(p for p in source.rglob("*") if p.suffix in (".parquet", ".arrow"))
        paths = [path for path in found if not path.name.startswith("cache-")]
        if not paths:
            raise FileNotFoundError(f"{source}: no .parquet or .arrow files in this folder")
    elif source.suffix in (".parquet", ".arrow"):
        paths = [source]
    else:
        raise ValueError(f"{source}: expected a folder, or a name that ends in .h5, .hdf5, .parquet, .arrow")
    for path in paths:
        yield from _arrow_pieces(path, block_size)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Name the file in what libraries raise at a foreign or damaged one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable {kind} file ({error})") from error


def _hdf5_pieces(path: Path, groups: Sequence[int], block_size: int) -> Iterator[_Piece]:
    names = {"image": "images", "spectrum": "spectra", "redshift": "redshifts", "targetid": "targetids"}
    with _readable(path, "HDF5"), h5py.File(path) as file:
        for group in map(str, groups):
            if not isinstance(file.get(group), h5py.Group):
                raise ValueError(f"{path}: no group {group}; it has {', '.join(file) or 'none'}")
            arrays = {}
            for name, dataset in names.items():
                arrays[name] = found = file[group].get(dataset)
                if not isinstance(found, h5py.Dataset):
                    raise ValueError(f"{path}: group {group} lacks {dataset}")
                expected = " or ".join(str(("n", *shape)).replace("'", "") for shape in _SHAPES[name])
                kinds = "iu" if name == "targetid" else "f"
                if found.shape[1:] not in _SHAPES[name] or found.dtype.kind not in kinds or not found.shape:
                    raise ValueError(
                        f"{path}: {dataset} of group {group} is {found.dtype} of shape {found.shape}; "
                        f"expected {'integers' if kinds == 'iu' else 'floats'} of shape {expected}"
                    )
            lengths = {names[name]: len(array) for name, array in arrays.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"{path}: arrays of group {group} are not of one length: {lengths}")
            n = lengths["targetids"]
            split = np.where(np.arange(n) < int(0.8 * n), "train", "test")
            for start in range(0, n, block_size):
                rows = slice(start, start + block_size)
                part = [array[rows] for array in arrays.values()]
                yield part[0], part[1].reshape(len(part[1]), -1), part[2], part[3], split[rows]


def _arrow_pieces(path: Path, block_size: int) -> Iterator[_Piece]:
    """Rows of one file of the hub."""
    found = re.search(r"(?<![a-z])(train|test)(?![a-z])", path.name) or re.fullmatch(
        "(train|test)", path.parent.name
    )
    split = found[1] if found else ""
    with _readable(path, path.suffix[1:]):
        for batch in _batches(path, block_size):
            if missing := [name for name in _SHAPES if name not in batch.schema.names]:
                raise ValueError(
                    f"{path}: no column {', '.join(missing)}; it has {', '.join(batch.schema.names)}"
                )
            if not batch.num_rows:
                continue
            part = {name: _dense(batch.column(name), name, path) for name in _SHAPES}
            if part["targetid"].dtype.kind not in "iu":
                raise ValueError(f"{path}: column targetid is not of whole numbers, or lacks some")
            flux = part["spectrum"].reshape(batch.num_rows, -1)
            yield part["image"], flux, part["redshift"], part["targetid"], np.full(batch.num_rows, split)


def _batches(path: Path, block_size: int) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            whole = set(_SHAPES) <= set(file.schema_arrow.names)
            yield from file.iter_batches(block_size, columns=list(_SHAPES) if whole else None)
        return
    with pa.memory_map(str(path)) as source:
        magic = source.read(6)
        source.seek(0)
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(source)
        for batch in batches:
            for start in range(0, batch.num_rows, block_size):
                yield batch.slice(start, block_size)


def _dense(array: pa.Array, name: str, path: Path) -> np.ndarray:
    """Rows of nested lists as one array (n, ...) of a shape that is expected."""
    n, shape = len(array), []
    array = getattr(array, "storage", array)  # of an extension type that is known here
    while pa.types.is_nested(array.type):
        length = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
        shape.append(int(length[0]) if (length == length[0]).all() else -1)
        array = array.flatten()
    if tuple(shape) not in _SHAPES[name]:
        rows = "rows of unequal lengths or none" if -1 in shape else f"rows of shape {tuple(shape)}"
        expected = " or ".join(map(str, _SHAPES[name]))
        raise ValueError(f"{path}: column {name} has {rows}; expected {expected}")
    return array.to_numpy(zero_copy_only=False).reshape(n, *shape)
