"""Why compilation failed, in one line that says what can be done."""

from __future__ import annotations

#: Longest reason that is given, in characters.
LONGEST = 1500

#: Advice of torch to its own developers.
_NOISE = ("Set TORCHDYNAMO_VERBOSE", "You can suppress this exception", "import torch._dynamo")


def reason_of(error: BaseException) -> str:
    r"""What went wrong, in one line.

    Where a compiler complained, that is what it printed as errors; where there is none, what to
    install.

    Examples
    --------
    >>> reason_of(RuntimeError("no space\nleft on device"))
    'RuntimeError: no space; left on device'
    """
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines = [line.strip() for line in str(cause).splitlines()]
        lines = [line for line in lines if line and not line.startswith(_NOISE)]
        complaints = [line for line in lines if "error:" in line]
        text = f"{type(cause).__name__}: {'; '.join(complaints or lines)}"
        if not any(text in earlier for earlier in texts):
            texts.append(text)
        cause = cause.__cause__
    reason = ", because of ".join(texts)[:LONGEST]
    if "No working C++ compiler" in reason:
        reason += ". Install g++, or name another compiler in the environment variable CXX"
    return reason
