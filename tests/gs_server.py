"""Serves an empty bucket gs://bucket on a port of this machine: python gs_server.py PORT."""

import socketserver
import sys

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

download = objects.download


def with_generation(request, response, storage, *args, **kwargs):
    """What tensorstore asks for before it replaces an object, and the emulator leaves out."""
    try:
        found = storage.get_file_obj(request.params['bucket_name'], request.params['object_id'])
        response['x-goog-generation'] = found['generation']
    except NotFound:
        pass
    download(request, response, storage, *args, **kwargs)


if __name__ == '__main__':
    objects.download = with_generation
    socketserver.TCPServer.request_queue_size = 128
    from gcp_storage_emulator.server import create_server

    create_server('127.0.0.1', int(sys.argv[1]), in_memory=True, default_bucket='bucket').run()
