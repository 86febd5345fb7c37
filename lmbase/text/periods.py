"""What a period ends: an abbreviation, an ordinal number, an initial, or a sentence. For all rules and languages.

The language of a text is not known, and texts mix them, so there is one list for all. Nothing is in it that often ends
a sentence in another language. Where a period may be both an abbreviation's and a sentence's ("in the U.S. He left"),
a next word that mostly begins sentences decides.
"""

import re


def _forms(words: str) -> frozenset[str]:
    """In lower case, capitalised and in capitals."""
    return frozenset(form for word in words.split() for form in (word, word.capitalize(), word.upper()))


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


# A name follows: never the end of anything.
TITLES = _forms(
    """mr mrs ms dr drs prof profa fr hon rev gen col maj capt cmdr comdr adm brig lt sgt cpl pvt gov sen rep reps supt
    insp messrs msgr st ste mt ft hr hrn frl dipl ing fam geschw mm mme mlle mmes mgr mons sr sra srta srs sras dra dña
    sto sta excmo ilmo lic gral arq pbro mtro mtra avda sig sigg dott avv geom rag cav egr spett eng exmo ilma dhr mevr
    mw ir jhr ds inż hab ks bp ul pl dyr г ул пр просп пер пл наб бул им проф акад доц тов вул κ κα डॉ पं प्रो श्री कु
    स्व ดร"""
) | _words("M Zob Vgl vgl zob")
# The end only where the next word begins a sentence.
ABBREVIATIONS = (
    TITLES
    | _forms(
        """jr esq vs viz cf approx est dept inc ltd co corp bros univ assn assoc ave blvd rd lbs oz chap mss hq ibid
    eg ie v mon tue tues thu thurs fri jan feb apr aug sept oct nov dec
    usw bzw nr evtl ggf inkl exkl sog bspw ca ugs vorm geb gest gegr verh verw abb tab bd bde hrsg hg ggü einschl usf
    chr gem bzgl zzgl abzgl zzt dgl vll allg entspr ehem wiss lat griech engl franz jh jhd jhdt mrd tsd std sek kfz lfd
    mtl jährl aufl ausg ebd übers verf rd teilw urspr zit zus
    éd env boul chap apr av hab dép arr réf suppl trad vol
    núm pág págs cap ed uds ud vds vd tel aprox depto dpto apdo admón cía ej íd izq dcha gdor const
    prov ecc pag pagg art fig ca cfr es sec tav
    exa obs
    bijv enz resp incl excl blz afb nl ong zgn vgl jl ev i.v.m
    np tzn tzw ok itp godz pow por woj gm wyd rys oprac zw wł ww śp
    см рис табл стр гл тыс млн млрд напр др обл прим изд ред мин сек руб коп чел ср англ нем кв
    например např atd tzv resp tj kl osv evt dvs mfl napi tzn bl.a
    ee uu ff aa rr"""
    )
    | _words("al max min med phil rer nat Mio ff tys Const")
)
# The end wherever the next word is capitalised: these close a list.
CLOSE_LISTS = _forms("etc usw usf ecc enz itd itp atd osv uds mfl") | {"a.C", "d.C"}
# No end in front of a number: "No. 5", but "No. I will not."
NUMBERED = _forms(
    """no nos p pp vol vols ch sec fig figs eq eqs art arts mar jun jul v op bk par para ex s bd kap abs anm str blz pag
    al ziff rz r tom cz gl ст гл тел ч"""
)
_KNOWN = ABBREVIATIONS | NUMBERED
MONTHS = _words(
    """Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember Jan Feb Apr Aug Sep
    Sept Okt Nov Dez január február március április május június július augusztus szeptember október november
    december"""
)
# Capitalised, these mostly begin a sentence.
STARTERS = _words(
    """The This That These Those He She It They We You My His Her Its Our Their There Here Then When Where What Who Why
    How If But And So Or Yet On At As After Before From With Some Most Many Nobody Everyone Others Both All Each Since
    While Although However Later Today Not
    Der Die Das Den Dem Ein Eine Er Sie Es Wir Ihr Ich Man Dann Da Dort Hier Heute Danach Doch Aber Und Oder Wenn Als Im
    In Am Auf Bei Nach Vor Seit Auch Nur Niemand Keiner Alle Viele Andere Manche Beide Seine Ihre Dies Diese Nun Was Wer
    Wie Wo Warum Vielleicht
    Le La Les Un Une Il Elle Ils Elles On Nous Vous Je Ce Cette Ces Mais Et Puis En Dans Sur Son Sa Ses Qui Que Quand Où
    Alors Personne
    El Los Las Una Él Ella Ellos Ellas Se Su Sus Pero Luego Entonces Después Nadie Todos Hoy Ahora Había
    Lo Gli Uno Lui Lei Loro Non Si Poi Ma Ora Oggi Nessuno Chi
    Os As Um Uma Ele Ela Eles Elas Não Mas Depois Em Hoje Ninguém Agora
    De Het Een Hij Zij Ze Wij Ik Er Dat Dit Maar Nu Vandaag Niemand Daarna Toen
    Он Она Оно Они Мы Вы Это Этот Эта Но На Потом Тогда Там Теперь Никто Все Его Её Их Если Когда Мой Він Вона Вони Але
    Потім Це
    Ona Ono Oni To Ten Ta Ale Potem Tam Teraz Nikt Wszyscy Dziś Nie Wtedy Jego Jej Kiedy Gdy
    Det Den Han Hon Hun Jag Vi Men Och Då Så Bu Ve Ama Sonra"""
)
# Behind an initial, parts of a name: J. La Salle.
_PARTICLES = _words("Le La Les De Den Los Las El Di Da Ten Van Von Do So An Al Lo Im In Em As")
# German in front of an ordinal number ("der 1. FC"); "I am 14." is none.
_ORDINAL_BEFORE = re.compile(
    r"(?:\b(?:[Dd](?:e[rnms]|ie|as)|[VvBb]om|[Vv]om|[Zz]u[mr]|[Ii]m|[Bb]eim|[Aa]b|[Jj]ede[rnms]?|[Dd]iese[rnms]?"
    r"|(?:[Mm]|[Dd]|[Ss])?[Ee]ine?[rnms]?)|(?<!\bI )\b[Aa]m)\s\d{1,2}\Z"
)

_MARKS_ON_LETTERS = r"\u0300-\u036f\u064b-\u0652\u0900-\u0963\u0971-\u0dff\u0e31-\u0e4e"  # no \w in `re`
_WORD_BEFORE = re.compile(rf"[\w{_MARKS_ON_LETTERS}]+(?:\.[\w{_MARKS_ON_LETTERS}]+)*\Z")
_L = rf"[^\W\d_][{_MARKS_ON_LETTERS}]*"
# U.S, e.g, Ph.D, f.eks, S.p.A, v.Chr, sig.ra
_DOTTED = re.compile(
    rf"(?:{_L}){{1,2}}(?:\.(?:{_L}){{1,2}})+|{_L}(?:\.(?:{_L}){{1,4}})+|(?:sig|dott|prof|n)\.(?:ra|ssa|º|ª)"
)
_SPACED = re.compile(r"\b[^\W\d_]\.\s[^\W\d_]\w{0,2}\Z")  # z. B, a. m, p. ej, v. Chr
ENUMERATOR = re.compile(r"\s*+(?:\d{1,3}|[^\W\d_]|[IVXLC]+)")  # "1.", "a.", "IV." that open a piece
_ROMAN = re.compile(r"[IVXLC]+")
_VOWELLESS = re.compile(r"[b-df-hj-np-tv-xzб-джзй-нп-тф-щ]{2,3}")  # km, hrs, млн
_NEXT_WORD = re.compile(r"\s+(?:[—–]\s)?+[^\w\s]{0,8}+(\w[\w'’-]{0,63}|)")
_PLAIN_BEFORE = re.compile(r"(?<!\S)[^\W\d_]*[^\W\d_A-Z]{2}\Z")
_LETTERS = re.compile(r"[^\W\d_]+")
_VERSE = re.compile(r"\s\d{1,3}:\d")
_DATE_NEXT = re.compile(r"\s(?:\d{1,2}\.|(?:1\d|20)\d\d\b)")  # 1. 5. 1938
_SHORT_NEXT = re.compile(r"\s[^\W\d_]{1,3}\.")
_INITIAL_NEXT = re.compile(r"\s[A-Z]\.")
_INITIAL_BEFORE = re.compile(r"\b[A-Z]\.\s")


def next_word(text: str, end: int) -> str:
    """The word behind white space and opening marks; empty if there is none."""
    match = _NEXT_WORD.match(text, end)
    return match.group(1) if match else ""


def is_ellipsis(text: str, period: int, end: int) -> bool:
    """Part of "...", "…" or ". . ."? The marks at text[period:end] hold nothing but periods and what closes."""
    return (
        text[period] == "…"
        or text[period + 1 : period + 2] in (".", "…")
        or text[end + 1 : end + 2] == "."
        or (period > 0 and text[period - 1].isspace())
    )


def period_ends(text: str, start: int, period: int, end: int) -> bool:
    """Does the period at text[period], which is no ellipsis, end a sentence in a piece that began at `start`?

    `end` is where the run of periods and closers ends; the next word is looked at, and nothing behind it.
    """
    word = text[max(start, period - 12) : period].rpartition(" ")[2]
    if not word.isalpha():
        match = _WORD_BEFORE.search(text, max(start, period - 12), period)
        if match is None:
            return period > start  # after a bracket, a sign, an emoji
        word = match.group()
    elif len(word) > 3 and word.islower() and word not in _KNOWN:
        return word[-3:] != "str"  # most words; Hauptstr.
    if word in TITLES or ENUMERATOR.fullmatch(text, start, period):
        return False
    following = next_word(text, end)
    if word.isdigit():
        return _number_ends(text, start, period, end, following)
    if not following:
        return not (word in ABBREVIATIONS or (len(word) == 1 and word != "I") or _DOTTED.fullmatch(word))
    if word in NUMBERED and (following[0].isdigit() or (following != "I" and _ROMAN.fullmatch(following))):
        return False
    if following[0].isdigit() and word.istitle() and _VERSE.match(text, end):  # (Phil. 4:8)
        return False
    if word in CLOSE_LISTS:
        return following[0].isupper()
    if _is_initial(text, start, period, end, word, following):
        return following in STARTERS and following not in _PARTICLES
    spaced = len(word) < 4 and (word.islower() or word == "Chr")
    if (
        word in ABBREVIATIONS
        or (word.endswith("str") and word != "str")
        or ("." in word and _DOTTED.fullmatch(word))
        or (spaced and _SPACED.search(text, max(start, period - 6), period))
    ):
        return following in STARTERS
    if following[0].islower() or following[0].isdigit():
        return not (_VOWELLESS.fullmatch(word) or (len(word) > 1 and _ROMAN.fullmatch(word)))
    return True


def is_left_out_space(text: str, end: int) -> bool:
    """Is only a space missing behind the mark that ends here ("left.Then"), rather than this a name ("Node.Js")?"""
    before = _PLAIN_BEFORE.search(text, max(0, end - 25), end - 1)
    after = _LETTERS.match(text, end)
    return bool(before and after and before.group() not in ABBREVIATIONS and after.group() in STARTERS)


def _number_ends(text: str, start: int, period: int, end: int, following: str) -> bool:
    """A number and its period: "am 1. Februar", "der 1. FC", "1904. május", but "in 1904. Then"."""
    number = period - 1
    while number > start and text[number - 1].isdigit():
        number -= 1
    if following in MONTHS:
        return False
    if period - number > 2 or not following:
        return True
    if following[0].islower() or (following[0].isdigit() and _DATE_NEXT.match(text, end)):
        return False
    return following in STARTERS or not _ORDINAL_BEFORE.search(text, max(start, number - 10), period)


def _is_initial(text: str, start: int, period: int, end: int, word: str, following: str) -> bool:
    """One letter that stands for a word; not the I of "It is I.", nor a word like "à"."""
    if len(word) > 1:
        return False
    if word == "I":
        return bool(_INITIAL_NEXT.match(text, end) or _INITIAL_BEFORE.match(text, max(start, period - 4), period))
    if period - 3 >= start and (text[period - 2] in "'’" or (text[period - 2] == "-" and text[period - 3] != ".")):
        return False  # l'a, vas-y, but J.-P.
    if word.isascii() and word.islower() and following[:1].isupper():  # "the integer n. Then", but "u. a. Bonn"
        return bool(_SHORT_NEXT.match(text, end) or _SPACED.search(text, max(start, period - 6), period))
    return word not in "éèàáóòíúyяи"
