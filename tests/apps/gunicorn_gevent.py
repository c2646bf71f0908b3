"""gunicorn's configuration where it loads the application before it forks.

Its gevent workers patch the standard library after that: too late for boto3.
"""

from gevent import monkey

monkey.patch_all()
