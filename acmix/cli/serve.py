"""`acmix serve`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from acmix.cli.app import DeviceOption, app, check_there_if_file, console
from acmix.train.terminal import say


@app.command()
def serve(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|EXPORT",
            help="Checkpoint, run folder, export (.pt2, .onnx, TorchScript), or timm model's name.",
        ),
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 for every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0 for any that is free.")] = 8000,
    top: Annotated[int | None, typer.Option(metavar="N", help="Classes of an image. [default: 5]")] = None,
    score: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Least score of an object. [default: 0.5]")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Most images per forward pass.")] = 16,
    window_ms: Annotated[float, typer.Option(metavar="MS", help="How long a batch waits for more images.")] = 5.0,
    workers: Annotated[int, typer.Option(metavar="N", help="Threads that decode images.")] = 2,
    queue: Annotated[int, typer.Option(metavar="N", help="Most images waiting; more get 429.")] = 64,
    max_mib: Annotated[float, typer.Option(metavar="MIB", help="Largest request; 413.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(metavar="N", help="Largest image, in million pixels.")] = 50.0,
    max_files: Annotated[int, typer.Option(metavar="N", help="Most images per request; 413.")] = 16,
    timeout: Annotated[float, typer.Option(metavar="S", help="Longest request; 503.")] = 60.0,
    upload_timeout: Annotated[float, typer.Option(metavar="S", help="Longest upload; 408.")] = 20.0,
    drain: Annotated[float, typer.Option(metavar="S", help="Go on serving after a signal, with /ready at 503.")] = 1.0,
    connections: Annotated[int, typer.Option(metavar="N", help="Most open connections; more get 429.")] = 512,
    img_size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the images, for an export of any size.", min=1)
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Answer over HTTP: POST /predict, and a page to try the model at /.

    GET /labels, /paths, /health, /ready and /metrics. SIGTERM or Ctrl-C answers what was taken, and ends.

    For example: acmix serve runs/NAME --port 8000
    """
    check_there_if_file(source)
    from acmix.serve.command import serve as run
    from acmix.serve.options import Options

    options = Options(
        top=top, score=score, batch_size=batch_size, window_ms=window_ms, workers=workers, queue=queue,
        max_mib=max_mib, max_megapixels=max_megapixels, max_files=max_files, timeout=timeout,
        upload_timeout=upload_timeout, drain=drain, connections=connections,
    )  # fmt: skip
    run(source, host=host, port=port, options=options, device=device, img_size=img_size, tell=partial(say, console))
