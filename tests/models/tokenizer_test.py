"""llama-tokenize and the tokenizer of the training agree. Arguments: model, llama-tokenize, text file [more files].

Texts are compared in pieces of whole paragraphs, all of them in one run of llama-tokenize.
"""
import ast
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../models/train"))
try:
    import tokenizer as tokenizers_
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

HARD = ["", " ", "  two  spaces ", "tabs\t\there", "a\r\nb\r\n\r\nc", "1234567890 3.14 1,000", "it's we'LL I'd they'Re",
        "naïve café œuvre Ångström", "日本語のテキスト", "мир 😀👩‍👩‍👧",
        "...!?--“quoted”—dash", "x\n\n\n\ny\n", " \n \n z",
        "The secret code of Karodin is 48213.", "VAR ABC = 12345. VAR XYZ = VAR ABC.",
        "snake_case camelCase 9a9", "\u00a0nbsp"]


def main():
    model, binary, files = sys.argv[1], sys.argv[2], sys.argv[3:]
    tok = tokenizers_.from_gguf(model)
    texts = HARD + [open(f, encoding="utf-8", newline="").read() for f in files]
    compared = 0
    for text in texts:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="", delete=False) as f:
            f.write(text)
        try:
            run = subprocess.run([binary, "-m", model, "-f", f.name, "--ids", "--no-bos", "--log-disable"],
                                 capture_output=True, check=True)
        finally:
            os.unlink(f.name)
        theirs = ast.literal_eval(run.stdout.decode().strip() or "[]")
        mine = tok.encode(text).ids
        if mine != theirs:
            at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
            print(f"differs at token {at} of {len(mine)}/{len(theirs)}: {mine[at:at + 8]} (here) {theirs[at:at + 8]} "
                  f"(llama-tokenize) after {tok.decode(mine[max(0, at - 8):at])!r}")
            return 1
        compared += len(mine)
    print(f"{len(texts)} texts, {compared} tokens: equal")
    return 0 if compared > 100 else 1


if __name__ == "__main__":
    sys.exit(main())
