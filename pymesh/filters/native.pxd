# native.hpp for Cython: what hooks are compiled against. Text goes by value here, since Cython would make constant temporaries.

cdef extern from "pymesh_filter.h" nogil:
    ctypedef struct pymesh_text:
        const char *data
        size_t size
    ctypedef struct pymesh_message:
        pass
    ctypedef struct pymesh_host:
        pass
    ctypedef struct pymesh_creation:
        void *instance
        char *error
        size_t error_size
    ctypedef int (*pymesh_hook)(void *filter, const pymesh_host *host, pymesh_message *message) noexcept nogil
    ctypedef struct pymesh_filter:
        size_t size
        void *(*create)(const pymesh_creation *creation) noexcept
        void (*destroy)(void *filter) noexcept nogil
        pymesh_hook on_request_headers
        pymesh_hook on_response_headers

cdef extern from "native.hpp" namespace "pymesh" nogil:
    cppclass Text:
        Text()
        Text(const char *, size_t)
        bint is_none()
        bint operator bool()
        bint operator==(Text)
        bint operator!=(Text)
        Text operator+(Text)
        long long length()
        bint contains(Text)
        bint startswith(Text)
        bint endswith(Text)
        Text removeprefix(Text)
        Text removesuffix(Text)
        Text lower()
        Text strip()
        Text encode()

    cppclass Headers:
        Text get(Text)
        Text get(Text, Text)
        Text getitem(Text)
        bint contains(Text)
        long long length()
        void setitem(Text, Text)
        void add(Text, Text)
        void delitem(Text)

    cppclass Request:
        Headers headers()
        Text path()
        Text authority()
        Text method()
        Text scheme()
        void set_path(Text)
        void set_authority(Text)

    cppclass Response:
        Headers headers()
        long long status()

    cppclass Context:
        Text route()
        Text peer()
        Text request_id()

    cppclass Answering:
        Answering &header(Text, Text)
        int done()

    cppclass Setting:
        void set(const char *, size_t)
        Text text()

    cppclass Settings:
        void add(const char *, size_t)
        bint contains(Text)
        long long length()

    bint truth(Text)
    bint truth(long long)
    Text formatted(Text)
    bint any_of(Text, Text)
    bint any_of(Text, Text, Text)
    bint any_of(Text, Text, Text, Text)
    bint any_of(Text, Text, Text, Text, Text)
    bint any_of(Text, Text, Text, Text, Text, Text)
    int fail(Text)
    Answering reply(long long)
    Answering reply(long long, Text)
    int run[State, Message](int (*)(State *, Message, Context) noexcept nogil, void *, const pymesh_host *, pymesh_message *)
