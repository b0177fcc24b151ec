"""The printer's camera: a picture of the plate, as JPEG and as a stream of JPEGs (mjpg-streamer's addresses)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from PIL import Image, ImageDraw

from simulators.ultimaker.simulator import Simulator
from simulators.ultimaker.web import sim_of

_SIZE = (640, 480)
_FRAME_S = 0.5
_BOUNDARY = "boundarydonotcross"


def picture(sim: Simulator) -> bytes:
    """What the camera sees now: the plate, and a part that grows with the print. JPEG."""
    machine = sim.machine
    image = Image.new("RGB", _SIZE, (38, 40, 44))
    draw = ImageDraw.Draw(image)
    draw.polygon([(80, 400), (560, 400), (480, 300), (160, 300)], fill=(120, 126, 132))
    job = machine.job
    if job is not None:
        height = 8 + round(200 * job.progress(machine.now_s()))
        draw.rectangle([(250, 350 - height), (390, 350)], fill=(232, 226, 208))
    words = f"{machine.status}  {job.name if job else ''}"
    draw.text((12, 12), f"SIMULATED CAMERA  {words}", fill=(230, 230, 230))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


async def front_page(request: Request) -> Response:
    """`/?action=snapshot` and `/?action=stream`; a real printer has them on port 8080, which several simulated
    printers on one machine cannot share."""
    action = request.query_params.get("action")
    sim = sim_of(request)
    if action == "snapshot":
        return Response(picture(sim), media_type="image/jpeg")
    if action == "stream":
        return StreamingResponse(_frames(sim), media_type=f"multipart/x-mixed-replace;boundary={_BOUNDARY}")
    return PlainTextResponse(
        "Simulated Ultimaker 3. API: /api/v1, documentation: /docs/api/, panel: /panel\n"
    )


async def _frames(sim: Simulator) -> AsyncIterator[bytes]:
    while True:
        frame = picture(sim)
        yield (
            f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n".encode()
            + frame
            + b"\r\n"
        )
        await asyncio.sleep(_FRAME_S)
