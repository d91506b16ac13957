"""Engines on many machines: replicas that Ray Serve places, counts and replaces, behind the same web process.

    client -> web process (HTTP, keys, admission, jobs) -> Link -> Ray Serve -> replica: a Worker with its engine -> frames back

A replica is the Worker that the plain server runs as a process, fed by calls instead of a socket. Ray does what it is good at: where a
replica runs, how many there are, which one takes a call, and a new one for one that died. Frames stay JSON and bytes; Ray's own messages are
pickled, so its ports are for the machines of the cluster only.
"""
