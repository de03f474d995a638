/*
 * levee_sink_conformance over the built-in sinks, and over sinks that are wrong in one way each: it
 * must find that way. Process death is simulated: a life's object is dropped between two calls, or
 * inside commit, and nothing of it runs any more.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "levee/testing.h"
#include "runtime/context.h"
#include "tests/support/suite.h"

/* A crash inside commit leaves what that call held: the files sink's descriptors and buffers. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return 1;
}

#define SEEDS 40
#define LIVES 12

/* ---- a place in memory, and a sink that keeps its contract ---- */

enum wrong {
    RIGHT,
    SHOWS_WRITES,    /* what is written is there before commit */
    TOKEN_FIRST,     /* commits the token, then the data */
    DATA_FIRST,      /* commits the data, then the token */
    FORGETS_ABORT,   /* what was aborted is committed with the next batch */
    HIDES_LOSS,      /* answers never when its token was lost */
    APPENDS_AGAIN,   /* idempotent, it says; a repeat appends */
    LOSES_LAST,      /* drops the last record of a partition */
    FORGETS_CONTEXT, /* knows no foreign place */
    KEEPS_IN_MEMORY  /* publishes at close */
};

struct item {
    char key[32];
    uint64_t batch;
};
static struct place {
    struct item items[4000];
    size_t count;
    bool has_token, marked;
    struct levee_token token;
} place;

struct sink {
    struct item staged[2000];
    size_t count;
    struct levee_token identity, now;
};
static enum wrong wrong;

static int mem_open(void *self, const struct levee_token *identity, struct levee_error *err)
{
    (void)err;
    ((struct sink *)self)->identity = *identity;
    return 0;
}

static int mem_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                     struct levee_error *err)
{
    const struct sink *s = self;

    (void)err;
    *ret = place.token;
    if (place.has_token && strcmp(place.token.context, s->identity.context) != 0 &&
        wrong != FORGETS_CONTEXT) {
        *ret_state = LEVEE_TOKEN_FOREIGN;
    } else if (place.has_token) {
        *ret_state = LEVEE_TOKEN_FOUND;
    } else {
        *ret_state = place.marked && wrong != HIDES_LOSS ? LEVEE_TOKEN_LOST : LEVEE_TOKEN_NEVER;
    }
    return 0;
}

static int mem_begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct sink *s = self;

    (void)err;
    s->count = wrong == FORGETS_ABORT ? s->count : 0;
    s->now = *token;
    return 0;
}

static void put(const struct item *items, size_t n)
{
    memcpy(place.items + place.count, items, n * sizeof *items);
    place.count += n;
}

static int mem_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                     struct levee_error *err)
{
    struct sink *s = self;
    size_t from = s->count;

    (void)partition;
    (void)err;
    for (size_t i = 0; i + (wrong == LOSES_LAST) < n; i++) {
        struct item *x = &s->staged[s->count++];
        (void)snprintf(x->key, sizeof x->key, "%.*s", (int)records[i].key.len,
                       (const char *)records[i].key.data);
        x->batch = s->now.batch;
    }
    if (wrong == SHOWS_WRITES) {
        put(s->staged + from, s->count - from);
    }
    return 0;
}

static void set_token(const struct sink *s)
{
    place.token = s->now;
    place.has_token = place.marked = true;
}

static int mem_commit(void *self, struct levee_error *err)
{
    struct sink *s = self;

    (void)err;
    levee_sink_step();
    if (wrong == TOKEN_FIRST) {
        set_token(s);
        levee_sink_step();
    }
    if (wrong != SHOWS_WRITES && wrong != KEEPS_IN_MEMORY) {
        put(s->staged, s->count);
    }
    if (wrong == DATA_FIRST) {
        levee_sink_step();
    }
    set_token(s);
    levee_sink_step();
    s->count = wrong == KEEPS_IN_MEMORY ? s->count : 0;
    return 0;
}

/* The same batch again leaves the same result: what was there of it goes first. */
static int idempotent_commit(void *self, struct levee_error *err)
{
    struct sink *s = self;
    size_t kept = 0;

    (void)err;
    levee_sink_step();
    for (size_t i = 0; i < place.count && wrong != APPENDS_AGAIN; i++) {
        if (place.items[i].batch != s->now.batch) {
            place.items[kept++] = place.items[i];
        }
    }
    place.count = wrong == APPENDS_AGAIN ? place.count : kept;
    put(s->staged, s->count / 2);
    levee_sink_step();
    put(s->staged + s->count / 2, s->count - s->count / 2);
    levee_sink_step();
    s->count = 0;
    return 0;
}

static void mem_abort(void *self)
{
    struct sink *s = self;

    s->count = wrong == FORGETS_ABORT ? s->count : 0;
}

static void mem_close(void *self)
{
    struct sink *s = self;

    if (wrong == KEEPS_IN_MEMORY) {
        put(s->staged, s->count);
        s->count = 0;
    }
}

static const struct levee_sink_ops transactional = {.version = 1,
                                                    .kind = LEVEE_SINK_TRANSACTIONAL,
                                                    .open = mem_open,
                                                    .last_token = mem_token,
                                                    .begin = mem_begin,
                                                    .write = mem_write,
                                                    .commit = mem_commit,
                                                    .abort = mem_abort,
                                                    .close = mem_close,
                                                    .destroy = free};
static const struct levee_sink_ops idempotent = {.version = 1,
                                                 .kind = LEVEE_SINK_IDEMPOTENT,
                                                 .begin = mem_begin,
                                                 .write = mem_write,
                                                 .commit = idempotent_commit,
                                                 .abort = mem_abort,
                                                 .destroy = free};

static void *mem_make(void *arg)
{
    (void)arg;
    return calloc(1, sizeof(struct sink));
}

static void mem_crash(void *arg, void *self)
{
    (void)arg;
    free(self);
}

static int mem_read(void *arg, void (*see)(void *see_arg, const struct levee_record *record),
                    void *see_arg)
{
    (void)arg;
    for (size_t i = 0; i < place.count; i++) {
        see(see_arg, &(struct levee_record){.key = levee_text(place.items[i].key)});
    }
    return 0;
}

static int mem_reset(void *arg)
{
    (void)arg;
    memset(&place, 0, sizeof place);
    return 0;
}

static int mem_lose(void *arg)
{
    (void)arg;
    place.has_token = false;
    return 0;
}

static struct levee_sink_probe probe_of(const struct levee_sink_ops *ops)
{
    return (struct levee_sink_probe){.ops = ops,
                                     .make = mem_make,
                                     .crash = mem_crash,
                                     .read = mem_read,
                                     .reset = mem_reset,
                                     .lose_token = ops == &transactional ? mem_lose : NULL};
}

/* ---- right ones ---- */

START_TEST(sinks_that_keep_their_contract_pass)
{
    static const struct levee_sink_ops *const all[] = {&transactional, &idempotent};

    wrong = RIGHT;
    for (size_t i = 0; i < 2; i++) {
        struct levee_sink_probe p = probe_of(all[i]);
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            struct levee_sink_finding f;
            int code = levee_sink_conformance(&p, seed, LIVES, &f, NULL);
            ck_assert_msg(code == LEVEE_OK && f.rule == LEVEE_SINK_KEEPS, "seed %d: %s", (int)seed,
                          f.text);
        }
    }
}
END_TEST

/* ---- the files sink, on a real folder; crashes inside commit at its named points ---- */

static char root[128], folder[160];
static levee_context *owner;
static struct levee_testing *machine;

static void at_point(const char *name, void *arg)
{
    (void)name;
    (void)arg;
    levee_sink_step();
}

static int build_files(levee_context *ctx, void *arg, struct levee_error *err)
{
    (void)arg;
    levee_file_sink(levee_queue_source(ctx, "in", 1), "probed",
                    &(struct levee_file_sink_options){.path = folder});
    return levee_context_status(ctx, err);
}

/* A context that never starts: its graph owns the sink. */
static void *files_make(void *arg)
{
    char state[160];
    struct levee_options o = {.directory = state, .testing = machine};

    (void)snprintf(state, sizeof state, "%s/state", root);
    struct levee_error err = {0};
    if (levee_get_or_create(&owner, &o, build_files, NULL, &err) != LEVEE_OK) {
        (void)levee_print_error(stderr, &err);
        return NULL;
    }
    struct rt_sink *s = rt_context_graph(owner)->sinks[0]->sink;
    *(const struct levee_sink_ops **)arg = s->ops;
    return s->self;
}

static void files_crash(void *arg, void *self)
{
    (void)arg;
    (void)self;
    levee_free(owner); /* the sink was not opened by it, so it only frees memory */
    owner = NULL;
}

static void files_destroy(void *self)
{
    files_crash(NULL, self);
}

static int files_read(void *arg, void (*see)(void *see_arg, const struct levee_record *record),
                      void *see_arg)
{
    char path[512], line[256];
    DIR *d = opendir(folder);

    (void)arg;
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        size_t n = strlen(e->d_name);
        if (n < 4 || strcmp(e->d_name + n - 4, ".txt") != 0) {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof line, f)) {
            line[strcspn(line, "\t\n")] = '\0';
            see(see_arg, &(struct levee_record){.key = levee_text(line)});
        }
        if (f) {
            (void)fclose(f);
        }
    }
    if (d) {
        (void)closedir(d);
    }
    return 0;
}

static int files_reset(void *arg)
{
    char command[300];

    (void)arg;
    ck_assert_ptr_nonnull(strstr(root, "levee-conformance-"));
    (void)snprintf(command, sizeof command, "rm -rf '%s'/*", root);
    return system(command); /* NOLINT(cert-env33-c): a folder of our own making */
}

START_TEST(the_files_sink_keeps_its_contract)
{
    const char *tmp = getenv("TMPDIR");
    static const struct levee_sink_ops *ops;
    struct levee_sink_ops copy;

    (void)snprintf(root, sizeof root, "%s/levee-conformance-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
    (void)snprintf(folder, sizeof folder, "%s/out", root);
    ck_assert_int_eq(levee_testing_crash_points(&machine, at_point, NULL, NULL), LEVEE_OK);
    ck_assert_ptr_nonnull(files_make(&ops));
    copy = *ops;
    copy.destroy = files_destroy;
    files_crash(NULL, NULL);
    struct levee_sink_probe p = {.ops = &copy,
                                 .make = files_make,
                                 .crash = files_crash,
                                 .read = files_read,
                                 .reset = files_reset,
                                 .text = true,
                                 .arg = &ops};
    for (uint64_t seed = 1; seed <= SEEDS / 2; seed++) {
        struct levee_sink_finding f;
        int code = levee_sink_conformance(&p, seed, LIVES, &f, NULL);
        ck_assert_msg(code == LEVEE_OK, "seed %d: %s", (int)seed, f.text);
    }
    levee_sim_free(machine);
    (void)files_reset(NULL);
    ck_assert_int_eq(rmdir(root), 0);
}
END_TEST

/* ---- wrong ones ---- */

static const struct {
    enum wrong wrong;
    const struct levee_sink_ops *ops;
    enum levee_sink_rule rules[3]; /* the findings that name this fault */
} faults[] = {
    {SHOWS_WRITES, &transactional, {LEVEE_SINK_SHOWN_EARLY}},
    {TOKEN_FIRST, &transactional, {LEVEE_SINK_TOKEN_AHEAD}},
    {DATA_FIRST, &transactional, {LEVEE_SINK_TOKEN_BEHIND}},
    {FORGETS_ABORT, &transactional, {LEVEE_SINK_RECORD_TWICE}},
    {HIDES_LOSS, &transactional, {LEVEE_SINK_LOSS_HIDDEN}},
    {APPENDS_AGAIN, &idempotent, {LEVEE_SINK_RECORD_TWICE}},
    {LOSES_LAST, &transactional, {LEVEE_SINK_RECORD_MISSING, LEVEE_SINK_TOKEN_AHEAD}},
    {FORGETS_CONTEXT, &transactional, {LEVEE_SINK_FOREIGN_ACCEPTED}},
    {KEEPS_IN_MEMORY, &transactional, {LEVEE_SINK_RECORD_MISSING, LEVEE_SINK_TOKEN_AHEAD}},
};

/* Each is found within a few seeds, always under its own name, and the seed repeats it. */
START_TEST(a_wrong_sink_is_found_and_named)
{
    struct levee_sink_probe p = probe_of(faults[_i].ops);
    unsigned found = 0;

    wrong = faults[_i].wrong;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct levee_sink_finding f, again;
        struct levee_error err = {0};
        if (levee_sink_conformance(&p, seed, LIVES, &f, &err) == LEVEE_OK) {
            continue;
        }
        found++;
        bool named = false;
        for (size_t i = 0; i < 3; i++) {
            named = named || (faults[_i].rules[i] && f.rule == faults[_i].rules[i]);
        }
        ck_assert_msg(named, "seed %d: %s", (int)seed, f.text);
        ck_assert_int_eq(err.code, LEVEE_ESINK_FAILED);
        ck_assert_int_eq(levee_sink_conformance(&p, f.seed, LIVES, &again, NULL), err.code);
        ck_assert_str_eq(again.text, f.text);
    }
    ck_assert_uint_ge(found, SEEDS / 2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sink conformance");
    TCase *c = tcase_create("driver");

    tcase_add_test(c, sinks_that_keep_their_contract_pass);
    tcase_add_test(c, the_files_sink_keeps_its_contract);
    tcase_add_loop_test(c, a_wrong_sink_is_found_and_named, 0,
                        (int)(sizeof faults / sizeof faults[0]));
    suite_add_tcase(s, c);
    return suite_main(s);
}
