"""A Quart app that starts its own server at the end of its file."""

from quart import Quart, make_response, request, websocket

service = Quart(__name__)


@service.while_serving
async def life():
    service.up = True
    yield


@service.post("/echo")
async def echo():
    return {"got": await request.get_json(), "up": service.up}


@service.get("/sse")
async def sse():
    async def events():
        for number in range(3):
            yield f"data: {number}\n\n".encode()

    return await make_response(events(), {"Content-Type": "text/event-stream"})


@service.websocket("/ws")
async def ws():
    while True:
        await websocket.send("echo " + await websocket.receive())


service.run(port=5000)
