"""The images of a request: multipart fields named `file`, or base64 in JSON. They stay in memory, within the limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acmix.names import shortened, shown
from acmix.serve.options import Options
from acmix.serve.refused import GONE, Refused

if TYPE_CHECKING:
    from starlette.requests import Request

FIELD = "file"
HOW = f'send multipart fields named {FIELD!r}, or JSON {{"images": [base64, …]}}'
# characters of a file's name in an answer
LONGEST_NAME = 200
# what separates and encloses in JSON; of it no request with images needs many, and each may become an object of Python
MARKS = b'[]{},:"'
MARKS_OF_ALL, MARKS_OF_IMAGE = 100, 8
# numbers beside the images: of /attention
NUMBERS = ("x", "y")


@dataclass(frozen=True)
class Upload:
    """One image as it came.

    Args:
        name: of its file; "image 3" for the fourth, where it has none.
        content: its bytes.
        number: of one without a name, from 0 on.
    """

    name: str
    content: bytes
    number: int | None = None

    @property
    def called(self) -> str:
        """What follows the word "image" in a message."""
        return self.name if self.number is None else str(self.number)


@dataclass(frozen=True)
class Uploads:
    """What a request brought.

    Args:
        images: in order.
        fields: texts beside them, by name.
    """

    images: list[Upload]
    fields: dict[str, str]


async def uploads_of(request: Request, options: Options, pool: Executor) -> Uploads:
    """Reads a request's images.

    Args:
        request: of which nothing was read.
        options: limits.
        pool: where JSON and base64 are read. They keep Python's lock, for about 0.1 s of a body of 32 MiB.

    Raises:
        Refused: it holds none, too many, or something else.
    """
    from starlette.requests import ClientDisconnect

    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body is compressed; images are already: send them as they are")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            found = await from_form(request, options)
        elif kind == "application/json":
            body = await request.body()
            found = await asyncio.get_running_loop().run_in_executor(pool, from_json, body, options)
        else:
            raise Refused(415, f"the content type is {kind or 'not given'!r}; {HOW}")
    except ClientDisconnect:
        raise Refused(GONE, "the client went away before the request was there") from None
    if not found.images:
        raise Refused(400, f"the request holds no image; {HOW}")
    return found


async def from_form(request: Request, options: Options) -> Uploads:
    """The files of a form."""
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class Form(MultiPartParser):
        # whether the last boundary has come
        is_whole = False

        def on_end(self) -> None:
            self.is_whole = True

    parser = Form(request.headers, request.stream(), max_files=options.max_files, max_fields=16, max_part_size=4096)
    # never onto the disk: the whole request is bounded
    parser.spool_max_size = options.max_bytes + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(options) from None
        raise Refused(400, f"the form cannot be read: {error.message.rstrip('.')}; {HOW}") from None
    except (ValueError, LookupError, UnicodeError) as error:
        raise Refused(400, f"the form cannot be read: {error}; {HOW}") from None
    if not parser.is_whole:
        raise Refused(400, f"the form ends before its last boundary; {HOW}")
    images, fields = [], {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            fields[name] = value
        elif name != FIELD:
            raise Refused(400, f"a file is in the field {shortened(name, 100)!r}; expected {FIELD!r}")
        else:
            content = await value.read()
            await value.close()
            images.append(upload_of(value.filename, len(images), content))
    return Uploads(images, fields)


def upload_of(file: str | None, number: int, content: bytes) -> Upload:
    """An image with the name that it has in the answer."""
    if file:
        return Upload(shown(shortened(file, LONGEST_NAME)), content)
    return Upload(f"image {number}", content, number)


def from_json(body: bytes, options: Options) -> Uploads:
    """The images of a JSON object, and numbers beside them."""
    marks = len(body) - len(body.translate(None, MARKS))
    if marks > MARKS_OF_ALL + MARKS_OF_IMAGE * options.max_files:
        raise Refused(400, f"the JSON has {marks:,} brackets, commas, colons and quotes, which no images need; {HOW}")
    try:
        # whole numbers too, of which Python reads only so many digits
        value: Any = json.loads(body, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}; {HOW}") from None
    texts = value.pop("images", None) if isinstance(value, dict) else None
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise Refused(400, f"the JSON has no list of texts called 'images'; {HOW}")
    if len(texts) > options.max_files:
        raise too_many(options)
    for name, number in value.items():
        if name not in NUMBERS:
            raise Refused(400, f"the JSON has a key {shortened(name, 100)!r}; expected 'images', 'x' and 'y'")
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise Refused(400, f"{name} is {shortened(json.dumps(number), 100)}; expected a number from 0 to 1")
    images = []
    for number, text in enumerate(texts):
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            images.append(upload_of(None, number, base64.b64decode(text, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise Refused(400, f"image {number} is no base64: {error}; {HOW}") from None
    return Uploads(images, {name: str(number) for name, number in value.items()})


def too_many(options: Options) -> Refused:
    """Of a request with more files than are taken."""
    return Refused(413, f"the request holds more than {options.max_files} images; send them in several requests")
