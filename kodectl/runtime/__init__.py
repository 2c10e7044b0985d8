"""The world as an interface, and its implementation on gevent."""
