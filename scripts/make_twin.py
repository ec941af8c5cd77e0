"""Write the blocking client `pilotfish.blocking` from the asynchronous one, token by token.

`make twin` runs it; a contract test fails when the two have come apart.
"""

import io
import pathlib
import sys
import tokenize

ROOT = pathlib.Path(__file__).resolve().parent.parent / "client" / "pilotfish"
SOURCE, TARGET = ROOT / "aio", ROOT / "blocking"

NAMES = {
    "AsyncClient": "Client",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "StopAsyncIteration": "StopIteration",
}
TEXT = (
    ("pilotfish.aio", "pilotfish.blocking"),
    ("grpc.aio.Channel", "grpc.Channel"),
    ("grpc.aio.insecure_channel", "grpc.insecure_channel"),
    ("grpc.aio.secure_channel", "grpc.secure_channel"),
    ("import grpc.aio\n", ""),
    ("async with AsyncClient()", "with Client()"),
    ("await client.", "client."),
    (
        "The asynchronous client; its blocking twin in `pilotfish.blocking` is generated from it by `make twin`.",
        "The blocking client, generated from `pilotfish.aio` by `make twin`; never edited.",
    ),
    (
        "call = stub.ModelInfer(request, metadata=self._headers, timeout=timeout_s)\n                answer = call\n",
        "answer, call = stub.ModelInfer.with_call(request, metadata=self._headers, timeout=timeout_s)\n",
    ),
)


def blocking(source: str) -> str:
    """Return the blocking form of a module."""
    out = list(tokenize.generate_tokens(io.StringIO(source).readline))
    lines = source.splitlines(keepends=True)
    # Edits from the end, so that positions before them stay true.
    for token in reversed(out):
        if token.type not in (tokenize.NAME, tokenize.STRING):
            continue
        row, column = token.start
        line = lines[row - 1]
        end = token.end[1]
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            rest = line[end:]
            lines[row - 1] = line[:column] + rest.removeprefix(" ")
        elif token.type == tokenize.NAME and token.string in NAMES:
            lines[row - 1] = line[:column] + NAMES[token.string] + line[end:]
        elif token.type == tokenize.STRING and token.string.strip("\"'") in NAMES:
            word = token.string.strip("\"'")
            lines[row - 1] = line[:column] + token.string.replace(word, NAMES[word]) + line[end:]
    text = "".join(lines)
    for before, after in TEXT:
        text = text.replace(before, after)
    return text


def main() -> int:
    """Write every module, or with --check say whether they are up to date."""
    check = "--check" in sys.argv
    stale = []
    TARGET.mkdir(exist_ok=True)
    for path in sorted(SOURCE.glob("*.py")):
        target = TARGET / path.name
        text = blocking(path.read_text())
        if not target.exists() or target.read_text() != text:
            stale.append(path.name)
            if not check:
                target.write_text(text)
    if check and stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `make twin`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
