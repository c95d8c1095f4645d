"""Confinement of a server's process: files, programs and ports that the kernel (Landlock) lets it reach.

It is a second layer below the servers' own checks and holds when one of them is wrong. Each server declares a
`Confinement` in its `reach.py`. `confining.confine` applies it once, in the main thread, after the imports and
before any other thread or event loop exists: Landlock restricts the calling thread and all that it starts later. A
server embedded in another program (`build_server`) is not confined, because the process belongs to that program.
"""
