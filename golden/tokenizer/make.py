"""Writes hard_texts.json: ids by the Hugging Face tokenizers library. README.md beside it says how to run this."""

import json
import pathlib

import tokenizers

HERE = pathlib.Path(__file__).parent
FILE = json.loads((HERE / "../../models/tiny-v32/tokenizer.json").read_text("utf-8"))
BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

HARD = [
    "", "a", " ", "\n", "\0", "\r\n", "\t\tx", "Hello, world!", "  two  spaces ", "trailing   ", "   \n  \n x", "a\r\n\r\nb\rc",
    "1234567890 3.14159 1e-10 ٣٤٥ ⅧⅨ ½ ² 𝟘𝟙𝟚 7中8", "中文字符和 English 混排。「引号」，龥龦", "ひらがなカタカナ゠ヿ ｶﾀｶﾅ 한국어 일",
    "😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 🩷🫨 ", "e\u0301 n\u0303 a\u0301\u0302\u0303 \u0301alone क्षि กำ", "naïve façade Straße İı ſ K ﬁ ŉ ǰ",
    "\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x85\x9f", "\u200b\u200c\u200d\u2060\ufeff", " \u00a0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000x",
    "\u0378\U000E0001\U0010FFFF\uE000\U00031350\U0001E4D0\U00010D40",
    f"{BEGIN}once{END}", f" {BEGIN} {END}\n{END}{END}", "<｜begin▁of▁sentence｜", "<<｜end▁of▁sentence｜>>", "<｜begin of sentence｜> ▁｜",
    "def f(x):\n    return {'a': x[0]**2, \"b\": -1}  # done\n\n\nif __name__ == \"__main__\":\n\tf([1])\n",
    "#include <vector>\nint main() { return a->b[i]++ != 0x1F; } // ~!@#$%^&*()_+`-={}|[]\\:\";'<>?,./",
    "don't I'LL we've she'd 'tis o'clock ''quoted''", "https://example.org/a?b=c&d=%20#e user@mail.net C:\\dir\\file.txt",
    "$100 €5 ±3 a≤b ∑∫√ → ⇒ ™ © a_b-c--d---e", "Ġthe Ċ ĉ âĢĻ", "a" * 300, " " * 300, " " * 300 + "x", "\n" * 40 + " \n" * 20, "!?" * 60,
    "the" * 50, "\r\n" * 9 + "\n\r" * 9, "الكتاب على الطاولة שלום עולם", "Ελληνικά Русский язык Հայերեն ไทย தமிழ் 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]


def added(content, number, **flags):
    token = {"id": 2048 + number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return token | flags


FLAGS = FILE["added_tokens"] + [
    added("<l>", 0, lstrip=True), added("<r>", 1, rstrip=True), added("<w>", 2, single_word=True, special=True),
    added("<l><r>", 3), added("north", 4, normalized=True), added("<l", 5, normalized=True, lstrip=True, rstrip=True),
    added("éé", 6), added("中", 7, single_word=True, normalized=True),
]
FLAGGED = ["a <l> b", "a  \u3000<l>b", "<l>  <l>", "<r> \n a<r>b", "<r>  <l> ", " <w> a<w> <w>b _<w> 中<w>. <w>\u200d <w>",
           "<l><r> <r><l>", "northern north", "<l a <l< l", "中 a中 中. 中中", "éé é", "<r> <w>x"]

# The pattern of Llama 3, the other common one; such files set ignore_merges, too.
LLAMA = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
       r"|\s+(?!\S)|\s+")
BYTES = FILE["pre_tokenizer"]["pretokenizers"][-1]
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}

SETS = [
    {"name": "the file of tiny-v32", "patch": {}, "texts": HARD},
    {"name": "flags of added tokens", "patch": {"added_tokens": FLAGS}, "texts": FLAGGED},
    {"name": "one pattern, ignore_merges",
     "patch": {"pre_tokenizer": {"pretokenizers": [SPLIT | {"pattern": {"Regex": LLAMA}}, BYTES]},
               "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
               "normalizer": {"type": "Sequence", "normalizers": []}, "model": {"ignore_merges": True}},
     "texts": HARD[:32] + ["'S 'ſ 'LL 'Ve"]},
    {"name": "plain text as pattern",
     "patch": {"pre_tokenizer": {"pretokenizers": [SPLIT | {"pattern": {"String": "(h."}}, BYTES]}},
     "texts": ["t(h.e (h.(h. (ha the", "the man"]},
    {"name": "bytes alone", "patch": {"pre_tokenizer": BYTES | {"pretokenizers": None}}, "texts": HARD[:32]},
]


def merge_patch(value, patch):  # RFC 7396
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), change)
    return merged


def record(vectors):
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(merge_patch(FILE, vectors["patch"])))
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in vectors["texts"]]
    return {"name": vectors["name"], "patch": vectors["patch"], "cases": cases}


lines = ",\n".join(json.dumps(record(vectors)) for vectors in SETS)
(HERE / "hard_texts.json").write_text(f"[\n{lines}\n]\n", "utf-8")
