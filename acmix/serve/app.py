"""The routes of a service."""

# annotations are values here: FastAPI looks at those of the functions below

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from acmix import __version__
from acmix.errors import UsageError
from acmix.serve import explain
from acmix.serve.guard import Guard
from acmix.serve.refused import GONE, Refused, as_json, one_line
from acmix.serve.service import Service
from acmix.serve.uploads import Upload, uploads_of

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

ROUTES = "POST /predict and /attention, GET /, /labels, /paths, /health, /ready, /metrics"
FILES = {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}
TEXTS = {"images": {"type": "array", "items": {"type": "string", "format": "byte"}}}
NUMBER = re.compile(r"[0-9]{0,30}\.?[0-9]{1,30}([eE][+-]?[0-9]{1,3})?")
PLACE = {name: {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5} for name in ("x", "y")}


def application(service: Service) -> Guard:
    """The ASGI application of a service."""
    from fastapi import FastAPI

    # FastAPI's pages of documentation load scripts from elsewhere
    app = FastAPI(title="acmix", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_errors(app)
    add_state(app, service)
    add_work(app, service)
    add_page(app)
    return Guard(app, service.options, service.metrics)


def add_errors(app: "FastAPI") -> None:
    """Every error is a line of JSON."""
    from fastapi import Request, Response
    from starlette.exceptions import HTTPException

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return error.response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        why = f"{request.method} {request.url.path} is not served; there is {ROUTES}"
        return as_json({"error": one_line(why)}, error.status_code, dict(error.headers or {}))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, http)


def add_state(app: "FastAPI", service: Service) -> None:
    """What a service tells of itself."""
    from fastapi import Response

    info = service.info

    @app.get("/health", summary="Whether the process lives")
    async def health() -> Response:
        return as_json({"status": "ok"})

    @app.get("/ready", summary="Whether requests are to be sent here")
    async def ready() -> Response:
        if service.is_stopping:
            return as_json({"status": "stopping"}, 503)
        return as_json({"status": "ready"})

    @app.get("/labels", summary="The model, its task and its classes")
    async def labels() -> Response:
        limits = service.options
        told = {
            "model": info.model,
            "task": info.task,
            "head": info.head,
            "kind": info.kind,
            "img_size": info.img_size,
            "metrics": info.metrics,
            "classes": info.classes,
            "are_named": info.are_named,
            "has_attention": bool(explain.attentions(service.predictor.model)),
            "has_paths": bool(explain.paths(service.predictor.model)),
            "limits": {
                "mib": limits.max_mib,
                "megapixels": limits.max_megapixels,
                "files": limits.max_files,
                "seconds": limits.timeout,
            },
            "score": getattr(service.predictor, "score", None),
            "version": __version__,
        }
        return as_json(told)

    @app.get("/metrics", summary="Counters, for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    @app.get("/paths", summary="α, β and the effective kernels of the convolution paths, by block")
    async def paths(block: str | None = None, channel: str = "0") -> Response:
        model = service.predictor.model
        if block is None:
            return as_json(await service.in_pool(explain.paths_of, model, info))
        if not re.fullmatch("[0-9]{1,9}", channel):
            raise Refused(400, f"channel={channel!r}: expected a number from 0 on")
        return as_json(await service.in_pool(explain.kernels_of, model, info, block, int(channel)))


def add_work(app: "FastAPI", service: Service) -> None:
    """What a service does with images."""
    from fastapi import Request, Response

    info = service.info

    async def answered(request: Request, call: Callable[[list[Upload], dict[str, str]], Awaitable[Any]]) -> Any:
        """Reads a request's images and waits for what becomes of them, as long as the client does."""
        with service.admitted():
            uploads = await uploads_of(request, service.options, service.pool)
        task = asyncio.ensure_future(call(uploads.images, uploads.fields))
        gone = asyncio.ensure_future(is_gone(request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Refused(GONE, "the client went away")
            return task.result()
        finally:
            task.cancel()
            gone.cancel()

    @app.post("/predict", summary="What images show", openapi_extra=body_of())
    async def predict(request: Request) -> Response:
        found, bad = await answered(request, lambda images, _: service.predicted(images))
        told: dict[str, Any] = {"model": info.model, "task": info.task, "predictions": found}
        if bad == len(found):
            return as_json({"error": one_line(found[0]["error"]), **told}, 422)
        return as_json(told)

    @app.post("/attention", summary="Where a pixel of an image looks, by block", openapi_extra=body_of(PLACE))
    async def attention(request: Request) -> Response:
        if not explain.attentions(service.predictor.model):
            raise Refused(404, explain.why_not(service.predictor.model, info) or f"{info.model} has no attention")
        return as_json(await answered(request, lambda images, fields: looked(service, images, fields)))


def body_of(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """What OpenAPI says of a body with images and, beside them, other fields."""
    kinds = {"multipart/form-data": FILES, "application/json": TEXTS}
    content = {
        kind: {"schema": {"type": "object", "properties": {**images, **(fields or {})}, "required": [*images]}}
        for kind, images in kinds.items()
    }
    return {"requestBody": {"required": True, "content": content}}


async def looked(service: Service, images: list[Upload], fields: dict[str, str]) -> dict[str, Any]:
    """The attention of a pixel of the one image of a request."""
    if len(images) != 1:
        raise Refused(400, f"/attention takes one image, and {len(images)} came")
    place = (share(fields, "x"), share(fields, "y"))
    [upload] = images
    with service.queued(1):
        try:
            async with service.prepared(upload) as ready:
                arguments = (service.predictor, service.info, upload.name, ready, place)
                return await service.batches.call(explain.attention_of, *arguments)
        except UsageError as error:
            raise Refused(422, str(error)) from None


def share(fields: dict[str, str], name: str) -> float:
    """A field from 0 to 1; the middle where there is none."""
    text = fields.get(name, "0.5")
    value = float(text) if NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= 1:
        raise Refused(400, f"{name}={text[:40]!r}: expected a number from 0 to 1")
    return value


async def is_gone(request: "Request") -> None:
    """Waits until the client hangs up; the whole body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def add_page(app: "FastAPI") -> None:
    """The page for people: one file, which may run and draw what is in it and ask this service, and nothing else."""
    from fastapi import Response

    text = files("acmix.serve").joinpath("page.html").read_text(encoding="utf-8")
    sources = {
        kind: " ".join(f"'{digest(part)}'" for part in re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL))
        for kind in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(text, media_type="text/html", headers={"content-security-policy": policy})


def digest(part: str) -> str:
    """Of a script or a style, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}"
