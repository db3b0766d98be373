"""What perturbations put in place of what: keys, look-alikes, short forms, and what they add."""

from __future__ import annotations


def _pairs(words: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in words.split())


# the keys around each letter of a QWERTY keyboard
KEYS = _pairs(
    "q:wa w:qes e:wrd r:etf t:ryg y:tuh u:yij i:uok o:ipl p:ol a:qsz s:awdz d:sefx f:drgc g:fthv "
    "h:gyjb j:hukn k:jilm l:ko z:asx x:zdc c:xfv v:cgb b:vhn n:bjm m:nk"
)
# what character recognition takes for what
OCR = _pairs(
    "rn:m m:rn cl:d d:cl vv:w w:vv ri:n n:ri ii:u l:1 1:l I:l i:j O:0 0:O o:c S:5 5:S B:8 8:B e:c "
    "c:e h:b b:h g:9 Z:2 2:Z t:f f:t"
)
# Latin letters and those that look like them: Cyrillic and Greek ones, which NFKC leaves as they
# are, and Roman numerals, which it does not
HOMOGLYPHS = dict(zip("aceiopsxyABCEHIKMNOPSTXYZ", "асеіорѕхуАВСЕНІКМΝОРЅТХΥΖ"))
HOMOGLYPHS |= dict(zip("lmvdDLV", "ⅼⅿⅴⅾⅮⅬⅤ"))


def _contractions() -> dict[str, str]:
    """Return long forms with their short ones, and short forms with their long ones."""
    negated = "do does did is are was were have has had would should could must need"
    spoken = {
        "is": ("s", "it that there what who he she where"),
        "are": ("re", "you we they"),
        "have": ("ve", "i you we they"),
        "will": ("ll", "i you he she it we they"),
    }
    short = {"will not": "won't", "cannot": "can't", "let us": "let's", "i am": "i'm"}
    for verb in negated.split():
        short[f"{verb} not"] = f"{verb}n't"
    for verb, (ending, subjects) in spoken.items():
        for subject in subjects.split():
            short[f"{subject} {verb}"] = f"{subject}'{ending}"
    return short | {contraction: words for words, contraction in short.items()}


CONTRACTIONS = _contractions()
DISTRACTORS = (
    "I am writing this on my phone.",
    "Please excuse the length of this note.",
    "The weather has been pleasant all week.",
    "A friend sent me this yesterday.",
    "More about that next Tuesday.",
)
EMOJI = "😀😂🙂😍😢😡🤔👍👎🙏🎉🔥💯✨🚀"
MARKUP = (
    "<b>{}</b>",
    '<span class="c">{}</span>',
    "{}<br/>",
    "{}&nbsp;",
    '<a href="/page">{}</a>',
)
ADDRESSES = ("https://www.example.com/p{}", "user{}@example.org")
