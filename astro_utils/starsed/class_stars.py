"""Which stars of STELIB, MILES and MaStarHC represent the 13 classes of the study ``starsed``.

The rule for members: luminosity class V; within one subtype, except that B5 reaches to B7 as Pickles' mean
does; not peculiar; [Fe/H] above -0.5 where it is known. STELIB comes first, and in it stars that are observed
beyond 800 nm. Exceptions:

- O5 is HD 46223, which is listed without a luminosity class.
- B0 and B5 have one star of class IV each.
- STELIB has no K5 or M5 dwarf, and its M0 dwarf is as red as M1.
- M5 is Ross 248, which MILES lists as M6e: of its dwarfs called M5 and M6 this alone is as red as the M5 V of
  the Pickles library.

Unseen stars of a class are other stars within two subtypes; subgiants, fast rotators, other metallicities and
remaining reddening are among them. In the bins of the band they differ from the mean of their class about as
much as neighbouring classes do. MaStarHC clusters have no type; those here resemble the MILES members of
their class.
"""

__all__ = ["MEMBERS", "UNSEEN"]

_S, _M, _H = "STELIB", "MILES", "MaStarHC"

#: Name and library of the stars whose mean spectrum is that of the class.
MEMBERS = {
    "O5": (("HD046223", _S),),
    "B0": (("HD036512", _S), ("HD034816", _S)),
    "B5": (("HD147394", _S), ("HD087901", _S), ("HD003369", _M)),
    "A0": (("HD130109", _S), ("HD095418", _S), ("HD146624", _M)),
    "A5": (("HD116842", _S), ("HD023194", _M), ("HD109307", _M)),
    "F0": (("HD032537", _S), ("HD009919", _M), ("HD008829", _M)),
    "F5": (("HD076943", _S), ("HD126141", _S), ("HD134083", _S)),
    "G0": (("HD141004", _S), ("HD115383", _S), ("HD157214", _S)),
    "G5": (("HD117176", _S), ("HD115617", _M), ("HD134987", _M)),
    "K0": (("HD145675", _S), ("HD041593", _S), ("HD149661", _M)),
    "K5": (("HD201091", _M), ("HD156026", _M), ("HD103932", _M)),
    "M0": (("HD079211", _M), ("HD111631", _M)),
    "M5": (("G171-010", _M),),
}

#: Name and library of stars of the class that are not in its mean.
UNSEEN = {
    "O5": (("HD093250", _S), ("HD047839", _S)),
    "B0": (("HD184927", _S), ("HD000886", _M), ("HD047129", _S)),
    "B5": (("HD188665", _S), ("HD043153", _S), ("HD198183", _M), ("HD138764", _M)),
    "A0": (("HD030739", _S), ("HD060179", _M), ("HD175892", _M), ("HD174567", _M), ("HD183324", _M)),
    "A5": (("HD107276", _M), ("HD092769", _S), ("HD176232", _M)),
    "F0": (("HD137391", _M), ("HD029375", _M), ("HD210705", _M), ("HD110379", _M), ("HD222451", _M)),
    "F5": (("HD087141", _M), ("HD013555", _M), ("HD166285", _M), ("HD015798", _M), ("HD128429", _M)),
    "G0": (("HD039587", _S), ("HD110897", _S), ("HD004307", _M), ("HD055575", _M), ("HD067228", _M)),
    "G5": (("HD127334", _M), ("HD020630", _M), ("HD217014", _M), ("HD186427", _M), ("HD078418", _S)),
    "K0": (("HD165341", _M), ("HD185144", _M), ("HD069830", _M), ("HD026965", _M), ("HD037394", _S)),
    "K5": (("CD-2610417", _M), ("HD036003", _M), ("HD200779", _M), ("HD118100", _M)),
    "M0": (("HD204587", _M), ("HD048682B", _S), ("mastarhc 37", _H), ("mastarhc 41", _H)),
    "M5": (("mastarhc_v2 02", _H), ("mastarhc 24", _H), ("BD+195116B", _M)),
}
