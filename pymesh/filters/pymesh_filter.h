/* The compiled tier of filters, version 1: what a shared library and the proxy promise each other.
 *
 * A Python extension module holds a capsule named "pymesh.filter.v1" around a `pymesh_filter`: either as the attribute
 * `__pymesh_filter__` of a filter class (`pymesh filter build` writes it so), or in the place of the class itself. The
 * proxy calls the hooks from its workers and does not hold the GIL while it does.
 *
 * Rules, for both sides:
 *  - Structs begin with their size and only ever grow at the end. A field beyond the size that the other side gives is
 *    not there; the proxy refuses a filter that has set one it does not know.
 *  - Text is octets with a length, neither terminated nor encoded. Text that the proxy gives stays where it is until the
 *    hook returns, whatever is changed meanwhile. Text that the filter gives is copied before the call returns.
 *
 * The filter may, in a hook: call the functions of `pymesh_host` with the message of this call, and use its own memory.
 * It must not: keep the message or text of the proxy beyond the hook; touch Python objects; block; let a C++ exception
 * or a longjmp leave the hook. Hooks of one filter object never run at the same time, those of two objects do: there is
 * one object for each worker thread, so whatever they share must be safe for threads. */
#ifndef PYMESH_FILTER_H
#define PYMESH_FILTER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYMESH_FILTER_CAPSULE "pymesh.filter.v1"

/* Octets. `data` is NULL for what is not there; an empty text has a `data` that must not be read. */
typedef struct pymesh_text {
    const char *data;
    size_t size;
} pymesh_text;

/* The message a hook is called for, known to the proxy only. */
typedef struct pymesh_message pymesh_message;

/* What the functions of the proxy return, and what refused a change. */
enum {
    PYMESH_OK = 0,
    PYMESH_ABSENT = 1,     /* there is no such header */
    PYMESH_BAD_NAME = 2,   /* not a token (RFC 9110 section 5.1) */
    PYMESH_BAD_VALUE = 3,  /* control characters; a path without `/`; an authority that is none; a status out of range */
    PYMESH_PROTECTED = 4,  /* a header that the proxy writes itself: connection, content-length, host, ... */
    PYMESH_NOT_HERE = 5    /* this message has no such thing: the path of a response, the status of a request */
};

/* What a hook returns. Anything else is a failure. */
enum {
    PYMESH_CONTINUE = 0, /* the message goes on as the hook left it */
    PYMESH_REPLY = 1,    /* the answer given to `reply` takes its place */
    PYMESH_FAILED = 2    /* the failure policy decides; `fail` says why */
};

/* Parts of a message and of what is known beside it. The first two can be set. */
enum {
    PYMESH_PATH = 0,
    PYMESH_AUTHORITY = 1,
    PYMESH_METHOD = 2,
    PYMESH_SCHEME = 3,
    PYMESH_ROUTE = 4,      /* name of the chosen route */
    PYMESH_PEER = 5,       /* SPIFFE ID that the peer has proved */
    PYMESH_REQUEST_ID = 6
};

/* The proxy's functions. Header names may be in any case; those the proxy gives are in lower case. */
typedef struct pymesh_host {
    size_t size;
    /* A part; absent if the message has none. */
    pymesh_text (*get)(const pymesh_message *message, int part);
    /* Sets PYMESH_PATH or PYMESH_AUTHORITY of a request, which is routed again. */
    int (*set)(pymesh_message *message, int part, pymesh_text value);
    /* Of a response; 0 for a request. */
    int (*status)(const pymesh_message *message);
    /* The value of the n-th field of this name, counted from 0; absent behind the last. */
    pymesh_text (*get_header)(const pymesh_message *message, pymesh_text name, size_t n);
    /* Replaces all fields of this name by one. */
    int (*set_header)(pymesh_message *message, pymesh_text name, pymesh_text value);
    /* Adds a field and keeps those of the same name. */
    int (*add_header)(pymesh_message *message, pymesh_text name, pymesh_text value);
    /* Removes all fields of this name. */
    int (*remove_header)(pymesh_message *message, pymesh_text name);
    size_t (*header_count)(const pymesh_message *message);
    /* The field at a place, in order of arrival; PYMESH_ABSENT behind the last. */
    int (*header_at)(const pymesh_message *message, size_t place, pymesh_text *name, pymesh_text *value);
    /* Begins an answer, status 200 to 599; a second one replaces the first. The hook then returns PYMESH_REPLY. */
    int (*reply)(pymesh_message *message, int status, pymesh_text body);
    /* Adds a field to the answer that was begun. */
    int (*reply_header)(pymesh_message *message, pymesh_text name, pymesh_text value);
    /* Memory that lasts until the hook returns; NULL for more than 1 MiB in one hook. */
    char *(*allocate)(pymesh_message *message, size_t size);
    /* Says why the hook is about to return PYMESH_FAILED, for the proxy's log (UTF-8). */
    void (*fail)(pymesh_message *message, pymesh_text why);
} pymesh_host;

/* What a filter object is made from. */
typedef struct pymesh_creation {
    size_t size;
    /* The resource's `config`, a JSON object (UTF-8). */
    pymesh_text config;
    /* The instance of the class that has the capsule, a borrowed `PyObject *`; NULL if the capsule stands alone. */
    void *instance;
    /* Why there is no object, to be written as terminated UTF-8 of at most `error_size` octets. */
    char *error;
    size_t error_size;
} pymesh_creation;

/* One condition of `when`: `name` is a header, or `:method`, `:path`, `:authority`, `:scheme`; `test` is "present",
 * "exact", "prefix", "suffix" or "contains". Terminated strings. */
typedef struct pymesh_condition {
    const char *name;
    const char *test;
    const char *value;
} pymesh_condition;

typedef int (*pymesh_hook)(void *filter, const pymesh_host *host, pymesh_message *message);

/* A filter. It stays where it is as long as the capsule lives. NULL for whatever it does not have. */
typedef struct pymesh_filter {
    size_t size;
    /* Only requests that meet all of these enter the filter; of a class its own `when` counts. */
    const pymesh_condition *when;
    size_t when_count;
    /* Makes the object that is given to the hooks; the GIL is held. NULL is a failure to load. */
    void *(*create)(const pymesh_creation *creation);
    /* Ends it, on any thread, with or without the GIL: what needs it says PyGILState_Ensure. */
    void (*destroy)(void *filter);
    pymesh_hook on_request_headers;
    pymesh_hook on_response_headers;
} pymesh_filter;

#ifdef __cplusplus
}
#endif

#endif
