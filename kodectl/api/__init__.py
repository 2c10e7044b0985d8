"""REST over falcon on gevent.pywsgi."""
