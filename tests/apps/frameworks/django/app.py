"""A Django site in one file, as `asgi.py` of a Django project defines it."""

import json

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="of the test", ALLOWED_HOSTS=["*"])


def echo(request):
    return JsonResponse({"got": json.loads(request.body), "up": True})


async def sse(request):
    async def events():
        for number in range(3):
            yield f"data: {number}\n\n"

    return StreamingHttpResponse(events(), content_type="text/event-stream")


urlpatterns = [path("echo", echo), path("sse", sse)]
application = get_asgi_application()
