/* A filter that needs nothing but pymesh_filter.h (and Python's headers, to be a module). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pymesh_filter.h"

struct clicker {
    char config[256];
};

static pymesh_text text(const char *terminated) {
    pymesh_text made;
    made.data = terminated;
    made.size = strlen(terminated);
    return made;
}

static int is(pymesh_text one, const char *other) {
    return one.data != NULL && one.size == strlen(other) && memcmp(one.data, other, one.size) == 0;
}

static void *create(const pymesh_creation *creation) {
    struct clicker *made;
    if (creation->size < sizeof *creation || creation->instance != NULL) return NULL;
    made = calloc(1, sizeof *made);
    if (made == NULL) return NULL;
    memcpy(made->config, creation->config.data, creation->config.size);
    if (strstr(made->config, "refuse") != NULL) {
        strncpy(creation->error, "clicker wants no such config", creation->error_size - 1);
        free(made);
        return NULL;
    }
    return made;
}

static int on_request_headers(void *filter, const pymesh_host *host, pymesh_message *message) {
    struct clicker *own = filter;
    pymesh_text path = host->get(message, PYMESH_PATH), way = host->get_header(message, text("x-way"), 0), name, value;
    char *codes = host->allocate(message, 64), *first = host->allocate(message, 64);
    int at;
    if (is(way, "fail")) {
        host->fail(message, text("as it was told to"));
        return PYMESH_FAILED;
    }
    if (is(way, "nonsense")) return 77;
    if (is(way, "no-reply")) return PYMESH_REPLY;
    if (host->get_header(message, text("X-Reply"), 0).data != NULL) {
        host->reply(message, 418, text("in C"));
        host->reply_header(message, text("X-By"), text("clicker"));
        return PYMESH_REPLY;
    }
    if (host->header_at(message, 0, &name, &value) != PYMESH_OK) return PYMESH_FAILED;
    snprintf(first, 64, "%.*s=%.*s", (int)name.size, name.data, (int)value.size, value.data);
    for (at = 0; at < 200; at++) {
        char header[32];
        snprintf(header, sizeof header, "x-added-%d", at);
        host->add_header(message, text(header), text("v"));
    }
    snprintf(codes, 64, "%d %d %d %d %d %d", host->set_header(message, text("not a name"), text("v")),
             host->set_header(message, text("x-a"), text("a\nb")), host->add_header(message, text("Host"), text("v")),
             host->remove_header(message, text("x-not-there")), host->set(message, PYMESH_METHOD, text("PUT")),
             host->set(message, PYMESH_PATH, text("no-slash")));
    if (host->allocate(message, (size_t)-1) != NULL || host->allocate(message, 2 << 20) != NULL) return PYMESH_FAILED;
    if (host->get_header(message, text("x-many"), 1).data != NULL || host->status(message) != 0) return PYMESH_FAILED;
    if (host->header_at(message, host->header_count(message), NULL, NULL) != PYMESH_ABSENT) return PYMESH_FAILED;
    host->remove_header(message, text("X-Old"));
    host->set_header(message, text("x-clicker"), text(own->config));
    host->set_header(message, text("x-path"), path);
    host->set_header(message, text("x-codes"), text(codes));
    host->set_header(message, text("x-first"), text(first));
    return PYMESH_CONTINUE;
}

static int on_response_headers(void *filter, const pymesh_host *host, pymesh_message *message) {
    struct clicker *own = filter;
    char status[16];
    if (host->get(message, PYMESH_PATH).data != NULL) return PYMESH_FAILED;
    snprintf(status, sizeof status, "%d", host->status(message));
    host->set_header(message, text("x-status"), text(status));
    host->set_header(message, text("x-config"), text(own->config));
    return PYMESH_CONTINUE;
}

static const pymesh_condition when[] = {{":path", "prefix", "/c/"}};

#ifdef NEWER
static struct {
    pymesh_filter known;
    pymesh_hook later;
} filter = {{sizeof filter, when, 1, create, free, on_request_headers, on_response_headers}, on_response_headers};
#elif defined(OLDER)
static pymesh_filter filter = {offsetof(pymesh_filter, on_response_headers), when, 1, create, free, on_request_headers,
                               on_response_headers};
#else
static pymesh_filter filter = {sizeof filter, when, 1, create, free, on_request_headers, on_response_headers};
#endif

#ifdef MISNAMED
#define NAME "pymesh.filter.v0"
#else
#define NAME PYMESH_FILTER_CAPSULE
#endif

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "clicker", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_clicker(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddObject(made, "Clicker", PyCapsule_New(&filter, NAME, NULL)) < 0) return NULL;
    return made;
}
