/*
 * What the tests of the directory source share: a directory on the real disk, a context that hands
 * over every record with the key and the value it came with, and waiting for events instead of
 * time.
 */
#ifndef LEVEE_TESTS_DIRECTORY_RIG_H
#define LEVEE_TESTS_DIRECTORY_RIG_H

#include "levee/levee.h"
#include "tests/support/suite.h"

struct files_rig {
    char root[256], state[300], in[300];
    struct levee_directory_options source;
    struct levee_options options;
    levee_context *ctx;
    levee_stream *stream;
};

void files_begin(struct files_rig *r); /* settle_ms 1, rescan_ms a minute */
void files_end(struct files_rig *r);   /* removes everything */
void files_up(struct files_rig *r);
/* Starts, expecting that the context stops by itself with this code. */
void files_must_stop(struct files_rig *r, int code, struct levee_error *err);
void files_kill(
    struct files_rig *r); /* stops without draining: recovery treats it as a process death */
void files_drain(struct files_rig *r);

const char *files_path(const struct files_rig *r, const char *name); /* in the watched directory */
/* Written under a name that the source passes over, then moved in. */
void files_put(const struct files_rig *r, const char *name, const void *bytes, size_t len);
void files_put_text(const struct files_rig *r, const char *name, const char *text);
void files_append(const struct files_rig *r, const char *name, const char *text);

/* What the sink has seen since files_begin: "key=value|", in order; or without keys "value|". It is
 * what every life together has published. */
const char *files_seen(void);
size_t files_seen_count(void);
void files_wait_seen(struct files_rig *r, size_t records);
void files_must_see(struct files_rig *r, const char *text); /* exactly this, in this order */
/* Waits until the listener was told of this error; how often it was told of it at all. */
void files_wait_told(struct files_rig *r, int code);
int files_told(int code);
struct levee_directory_status files_status(struct files_rig *r);
/* Waits until a counter of the status (an offset into the struct) is at least n. */
void files_wait_status(struct files_rig *r, size_t offset, uint64_t n);
#define FILES_WAIT(r, field, n)                                                                    \
    files_wait_status(r, offsetof(struct levee_directory_status, field), n)

#endif
