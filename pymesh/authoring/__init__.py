"""What the author of a filter does with its file: begin one, check it, time it, compile it (`pymesh filter`).

Compiling: the file stays ordinary Python. Cython compiles it as it is, and beside it those hooks that need no Python
object, a second time, on the types of `native.hpp`: those are the functions that the proxy calls without the
interpreter (`pymesh_filter.h`). A hook that does need one is called as in an interpreted filter, and the result says
why. `hooks` rewrites a hook, `module` writes the library's source, `build` compiles it.
"""
