#include "tests/integration/test_directory_rig.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 40

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    char *seen;
    size_t len, cap, count;
    struct levee_token last;
    int codes[256];
    size_t code_count;
} sink = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void put(const uint8_t *bytes, size_t n)
{
    if (sink.len + n + 1 > sink.cap) {
        sink.cap = (sink.len + n + 1) * 2;
        sink.seen = realloc(sink.seen, sink.cap);
        MUST(sink.seen != NULL);
    }
    memcpy(sink.seen + sink.len, bytes, n);
    sink.len += n;
    sink.seen[sink.len] = 0;
}

/* foreach_batch gives a batch again after a kill: a batch is taken once, by its token. */
static int see(levee_batch *batch, const struct levee_token *token, void *arg,
               struct levee_error *err)
{
    (void)arg;
    (void)err;
    pthread_mutex_lock(&sink.mutex);
    for (size_t p = 0; token->batch > sink.last.batch && p < levee_batch_partitions(batch); p++) {
        size_t n;
        const struct levee_record *r = levee_batch_records(batch, p, &n);
        for (size_t i = 0; i < n; i++) {
            if (r[i].key.data) {
                put(r[i].key.data, r[i].key.len);
                put((const uint8_t *)"=", 1);
            }
            put(r[i].value.data, r[i].value.len);
            put((const uint8_t *)"|", 1);
            sink.count++;
        }
    }
    sink.last = token->batch > sink.last.batch ? *token : sink.last;
    pthread_cond_broadcast(&sink.changed);
    pthread_mutex_unlock(&sink.mutex);
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct files_rig *r = arg;

    r->stream = levee_directory_source(ctx, "files", &r->source);
    (void)levee_foreach_batch(r->stream, "see", see, NULL);
    return levee_context_status(ctx, err);
}

static void told(void *arg, const char *uid, const struct levee_error *err)
{
    (void)arg;
    (void)uid;
    pthread_mutex_lock(&sink.mutex);
    if (sink.code_count < 256) {
        sink.codes[sink.code_count++] = err->code;
    }
    pthread_cond_broadcast(&sink.changed);
    pthread_mutex_unlock(&sink.mutex);
}

static void quiet(void *arg, int level, const char *line)
{
    (void)arg;
    if (getenv("LEVEE_TEST_LOG")) {
        (void)fprintf(stderr, "%d %s\n", level, line);
    }
}

static const struct levee_listener listener = {.version = 1, .receiver_error = told};

void files_begin(struct files_rig *r)
{
    const char *tmp = getenv("TMPDIR");

    sink.len = sink.count = sink.code_count = 0;
    sink.last = (struct levee_token){0};
    put((const uint8_t *)"", 0);
    *r = (struct files_rig){0};
    (void)snprintf(r->root, sizeof r->root, "%s/levee-dir-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(r->root));
    (void)snprintf(r->state, sizeof r->state, "%s/state", r->root);
    (void)snprintf(r->in, sizeof r->in, "%s/in", r->root);
    ck_assert_int_eq(mkdir(r->in, 0700), 0);
    r->source = (struct levee_directory_options){.path = r->in, .settle_ms = 1};
    r->options = (struct levee_options){.directory = r->state,
                                        .batch_interval_ms = 10,
                                        .segment_bytes = 1 << 20,
                                        .program_id = "t",
                                        .log = quiet,
                                        .listener = &listener};
}

void files_end(struct files_rig *r)
{
    char command[300];

    levee_free(r->ctx);
    r->ctx = NULL;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", r->root);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): names of our own making */
}

void files_up(struct files_rig *r)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(levee_get_or_create(&r->ctx, &r->options, build, r, &err) == LEVEE_OK &&
                      levee_start(r->ctx, &err) == LEVEE_OK,
                  "%s", levee_error_format(&err, line, sizeof line));
}

void files_must_stop(struct files_rig *r, int code, struct levee_error *err)
{
    char line[1024];

    files_up(r);
    int why = levee_await_for(r->ctx, PATIENCE_S * 1000, err);
    ck_assert_msg(why == code, "%s, not %s", levee_error_format(err, line, sizeof line),
                  levee_error_name(code));
    files_kill(r);
}

void files_kill(struct files_rig *r)
{
    levee_free(r->ctx);
    r->ctx = NULL;
}

void files_drain(struct files_rig *r)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(levee_drain(r->ctx, 0, &err) == LEVEE_OK && levee_await(r->ctx, &err) == LEVEE_OK,
                  "%s", levee_error_format(&err, line, sizeof line));
    files_kill(r);
}

const char *files_path(const struct files_rig *r, const char *name)
{
    static char path[4][600];
    static int turn;
    char *p = path[turn++ % 4];

    (void)snprintf(p, 600, "%s/%s", r->in, name);
    return p;
}

static void write_all(const char *path, const char *how, const void *bytes, size_t len)
{
    FILE *f = fopen(path, how);

    MUST(f != NULL && (len == 0 || fwrite(bytes, len, 1, f) == 1) && fclose(f) == 0);
}

void files_put(const struct files_rig *r, const char *name, const void *bytes, size_t len)
{
    char outside[600];

    (void)snprintf(outside, sizeof outside, "%s/outside", r->root);
    write_all(outside, "w", bytes, len);
    MUST(rename(outside, files_path(r, name)) == 0);
}

void files_put_text(const struct files_rig *r, const char *name, const char *text)
{
    files_put(r, name, text, strlen(text));
}

void files_append(const struct files_rig *r, const char *name, const char *text)
{
    write_all(files_path(r, name), "a", text, strlen(text));
}

const char *files_seen(void)
{
    return sink.seen;
}

size_t files_seen_count(void)
{
    return sink.count;
}

/* With the mutex held: until something changes, or the patience is over. */
static void wait_for_change(const char *what)
{
    struct timespec until;

    MUST(clock_gettime(CLOCK_REALTIME, &until) == 0);
    until.tv_sec += PATIENCE_S;
    if (pthread_cond_timedwait(&sink.changed, &sink.mutex, &until) != 0) {
        ck_abort_msg("waited in vain for %s; seen %zu: %.300s", what, sink.count, sink.seen);
    }
}

/* The context stopping is the other way out of waiting. */
static void must_live(struct files_rig *r)
{
    struct levee_error err = {0};
    char line[1024];

    if (levee_await_for(r->ctx, 1, &err) != LEVEE_ETIMEOUT) {
        ck_abort_msg("stopped: %s", levee_error_format(&err, line, sizeof line));
    }
}

void files_wait_seen(struct files_rig *r, size_t records)
{
    must_live(r);
    pthread_mutex_lock(&sink.mutex);
    while (sink.count < records) {
        wait_for_change("records");
    }
    pthread_mutex_unlock(&sink.mutex);
}

void files_must_see(struct files_rig *r, const char *text)
{
    size_t n = 0;

    for (const char *c = text; *c; c++) {
        n += *c == '|';
    }
    files_wait_seen(r, n);
    ck_assert_str_eq(sink.seen, text);
}

void files_wait_told(struct files_rig *r, int code)
{
    must_live(r);
    pthread_mutex_lock(&sink.mutex);
    while (files_told(code) == 0) {
        wait_for_change(levee_error_name(code));
    }
    pthread_mutex_unlock(&sink.mutex);
}

int files_told(int code)
{
    int n = 0;

    for (size_t i = 0; i < sink.code_count; i++) {
        n += sink.codes[i] == code;
    }
    return n;
}

struct levee_directory_status files_status(struct files_rig *r)
{
    struct levee_directory_status st = {0};

    ck_assert_int_eq(levee_directory_source_status(r->stream, &st), LEVEE_OK);
    return st;
}

/* The source tells nobody of its counters: they are polled, with the context's own wait. */
void files_wait_status(struct files_rig *r, size_t offset, uint64_t n)
{
    for (int i = 0; i < PATIENCE_S * 200; i++) {
        struct levee_directory_status st = files_status(r);
        uint64_t now;
        struct levee_error err = {0};
        memcpy(&now, (const char *)&st + offset, sizeof now);
        if (now >= n) {
            return;
        }
        if (levee_await_for(r->ctx, 5, &err) != LEVEE_ETIMEOUT) {
            char line[1024];
            ck_abort_msg("stopped: %s", levee_error_format(&err, line, sizeof line));
        }
    }
    ck_abort_msg("a counter of the status never became %llu", (unsigned long long)n);
}
