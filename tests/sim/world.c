#include "tests/sim/world.h"

#include <stdlib.h>

#define DIRECTORY "state"
#define OUTPUT    "out"

struct world {
    const struct world_options *o;
    struct world_stats *stats;
    struct levee_testing *sim;
    levee_context *ctx;
    struct upstream upstream;
    struct remote remote;
    struct letters letters;
    struct events events;
    bool emitted[WORLD_WORDS][WORLD_RECORDS + 1]; /* totals that the files have ever shown */
    uint64_t rng;
    int words[WORLD_RECORDS];          /* what record i holds */
    uint64_t pushed;                   /* in this life */
    uint64_t acked;                    /* over all lives: never to be lost */
    uint64_t moved[WORLD_RECORDS * 4]; /* batch ids a consumer has taken away */
    size_t moved_count;
    int64_t moved_totals[WORLD_WORDS];
    uint64_t taking; /* a batch whose removal a crash interrupted: it may be there or not */
    int64_t taking_totals[WORLD_WORDS];
    enum crash_point last_point;
    bool any_point;
    char *why;
};

static uint64_t pick(struct world *w, uint64_t n)
{
    return rng_next(&w->rng) % n;
}

static bool broken(struct world *w, const char *fmt, ...) PRINTF(2, 3);
static bool broken(struct world *w, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(w->why, 512, fmt, ap);
    va_end(ap);
    return false;
}

/* ---- the job ---- */

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

static int setup(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct world *w = arg;

    levee_stream *lines = upstream_source(ctx, "lines", &w->upstream);
    levee_stream *words = levee_map_to_i64(levee_flat_map(lines, split, NULL), 1);
    levee_stream *totals = levee_update_state_by_key(levee_reduce_by_key(words, &levee_sum_i64),
                                                     "totals", NULL, levee_update_sum_i64, NULL);
    (void)levee_sink(totals, "remote", &remote_ops, &w->remote);
    (void)levee_sink(levee_dead_letters(ctx), "letters", &letters_ops, &w->letters);
    (void)levee_file_sink(
        totals, "files",
        &(struct levee_file_sink_options){.path = OUTPUT, .value = LEVEE_VALUE_I64});
    events_build(lines, &w->events);
    return levee_context_status(ctx, err);
}

static void on_point(enum crash_point point, void *arg)
{
    struct world *w = arg;

    w->last_point = point;
    w->any_point = true;
    w->stats->recycled += point == CP_RECYCLE_AFTER_DIR_SYNC;
}

static void quiet(void *arg, int level, const char *line)
{
    const struct world *w = arg;

    if (w->o->verbose) {
        (void)fprintf(stderr, "  [%d] %s\n", level, line);
    }
}

/* A quarter of the worlds have next to no buffer, the others long lines, which fill many segments
 * (but in positions mode, where the log does not hold them). */
static bool tight(const struct world *w)
{
    return w->o->seed % 12 == 1 || w->o->seed % 6 == 3;
}

static struct levee_options options_of(struct world *w)
{
    return (struct levee_options){
        .directory = DIRECTORY,
        .batch_interval_ms = 20,
        .workers = 1 + (uint32_t)(w->o->seed % 3),
        .partitions = 4,
        .buffer_bytes = tight(w) ? 4096 : 0,
        .segment_bytes = 64u << 10,
        .checkpoint_batches = 1 + (uint32_t)(w->o->seed % 4),
        .log = quiet,
        .log_arg = w,
        .guarantee = LEVEE_EXACTLY_ONCE,
        .on_failure = LEVEE_DEAD_LETTER,
        .testing = w->sim,
        .program_id = "world",
    };
}

/* ---- the sender ---- */

static bool note_acks(struct world *w)
{
    uint64_t durable = w->upstream.durable;

    if (durable > w->pushed) {
        return broken(w, "acknowledged %llu, only %llu were sent", (unsigned long long)durable,
                      (unsigned long long)w->pushed);
    }
    w->acked = durable > w->acked ? durable : w->acked;
    return true;
}

static bool push_some(struct world *w)
{
    uint64_t left = w->o->records - w->pushed, n = 1 + pick(w, 12);
    struct levee_error err = {0};

    n = n < left ? n : left;
    int code = n ? upstream_push(&w->upstream, w->pushed + 1, n, &err) : LEVEE_OK;
    if (code == LEVEE_OK) {
        w->pushed += n;
        return true;
    }
    enum levee_class class_ = levee_error_class(code);
    if (levee_sim_crashed(w->sim) || class_ == LEVEE_CLASS_RETRY) {
        return true;
    }
    char line[1024];
    return broken(w, "push: %s", levee_error_format(&err, line, sizeof line));
}

/* ---- the reader of the output files ---- */

static bool take_line(struct world *w, const char *line, size_t len, int64_t totals[WORLD_WORDS],
                      uint64_t batch)
{
    const char *tab = memchr(line, '\t', len);
    int k = tab ? world_word_index(slice_of(line, (size_t)(tab - line))) : -1;

    if (k < 0) {
        return broken(w, "batch %llu: strange line %.*s", (unsigned long long)batch, (int)len,
                      line);
    }
    int64_t total = strtoll(tab + 1, NULL, 10);
    if (total <= totals[k]) {
        return broken(w, "batch %llu: %s goes from %lld to %lld", (unsigned long long)batch,
                      world_word(k), (long long)totals[k], (long long)total);
    }
    if (total > WORLD_RECORDS) {
        return broken(w, "batch %llu: %s %lld was never sent", (unsigned long long)batch,
                      world_word(k), (long long)total);
    }
    totals[k] = total;
    w->emitted[k][total] = true;
    return true;
}

static bool read_batch_file(struct world *w, const char *name, int64_t totals[WORLD_WORDS],
                            uint64_t *ret_batch)
{
    char path[128];
    size_t len = 0;

    *ret_batch = strtoull(name + strlen("batch-"), NULL, 10);
    (void)snprintf(path, sizeof path, OUTPUT "/%s", name);
    char *bytes = (char *)levee_sim_read(w->sim, path, &len);
    bool ok = bytes != NULL;
    for (size_t at = 0; ok && at < len;) {
        const char *nl = memchr(bytes + at, '\n', len - at);
        ok = nl ? take_line(w, bytes + at, (size_t)(nl - bytes) - at, totals, *ret_batch)
                : broken(w, "%s is torn", name);
        at = nl ? (size_t)(nl - bytes) + 1 : len;
    }
    levee_sim_free_bytes((uint8_t *)bytes);
    return ok;
}

static bool was_moved(const struct world *w, uint64_t batch)
{
    for (size_t i = 0; i < w->moved_count; i++) {
        if (w->moved[i] == batch) {
            return true;
        }
    }
    return false;
}

/* The machine is up again: did the interrupted removal happen? */
static void settle_taking(struct world *w, const struct io_list *list)
{
    bool there = false;

    for (size_t i = 0; i < list->count; i++) {
        const char *name = list->items[i].name;
        there = there || (strncmp(name, "batch-", 6) == 0 && !io_is_temp(name) &&
                          strtoull(name + 6, NULL, 10) == w->taking);
    }
    if (!there) {
        w->moved[w->moved_count++] = w->taking;
        memcpy(w->moved_totals, w->taking_totals, sizeof w->moved_totals);
    }
    w->taking = 0;
}

static void take_away(struct world *w, const char *name, uint64_t batch,
                      const int64_t totals[WORLD_WORDS])
{
    struct io *io = w->sim->io;
    char path[128];

    (void)snprintf(path, sizeof path, OUTPUT "/%s", name);
    w->taking = batch;
    memcpy(w->taking_totals, totals, sizeof w->taking_totals);
    if (io->ops->unlink(io, path, NULL) == LEVEE_OK &&
        io->ops->sync_dir(io, OUTPUT, NULL) == LEVEE_OK) {
        w->moved[w->moved_count++] = batch;
        memcpy(w->moved_totals, totals, sizeof w->moved_totals);
        w->taking = 0;
    }
}

/* Reads every published file in batch order; a consumer takes some of them away for good when
 * `move`. */
static bool read_output(struct world *w, int64_t totals[WORLD_WORDS], bool move)
{
    struct io *io = w->sim->io;
    struct io_list list = {0};
    bool ok = true;

    if (io->ops->list(io, OUTPUT, &list, NULL) != LEVEE_OK) {
        memcpy(totals, w->moved_totals, sizeof w->moved_totals);
        return true; /* not made yet, or the power is gone */
    }
    if (w->taking) {
        settle_taking(w, &list);
    }
    memcpy(totals, w->moved_totals, sizeof w->moved_totals);
    for (size_t i = 0; i < list.count && ok && !levee_sim_crashed(w->sim); i++) {
        const char *name = list.items[i].name;
        uint64_t batch;
        if (strncmp(name, "batch-", 6) != 0 || io_is_temp(name)) {
            continue;
        }
        ok = read_batch_file(w, name, totals, &batch);
        if (ok && was_moved(w, batch)) {
            ok = broken(w, "batch %llu was published a second time", (unsigned long long)batch);
        }
        if (ok && move) {
            take_away(w, name, batch, totals);
        }
    }
    io_list_free(&list);
    return ok;
}

static bool check_end(struct world *w)
{
    int64_t want[WORLD_WORDS] = {0}, files[WORLD_WORDS];

    for (uint32_t i = 0; i < w->o->records; i++) {
        want[w->words[i]]++;
    }
    if (!read_output(w, files, false)) {
        return false;
    }
    for (int k = 0; k < WORLD_WORDS; k++) {
        if (files[k] != want[k]) {
            return broken(w, "%s: sent %lld, files say %lld", world_word(k), (long long)want[k],
                          (long long)files[k]);
        }
        for (int64_t t = 1; t <= want[k]; t++) {
            bool out = w->emitted[k][t], refused = remote_refuses(k, t);
            if (w->remote.seen[k][t] != (out && !refused) ||
                w->letters.seen[k][t] != (out && refused)) {
                return broken(w, "%s %lld was%s emitted; remote sink: %s, letters: %s",
                              world_word(k), (long long)t, out ? "" : " not",
                              w->remote.seen[k][t] ? "there" : "not there",
                              w->letters.seen[k][t] ? "there" : "not there");
            }
        }
    }
    const char *missing = events_missing(&w->events);
    return missing ? broken(w, "event time: %s", missing) : true;
}

/* ---- lives ---- */

enum life_end { LIFE_CRASHED, LIFE_FINISHED, LIFE_BROKEN };

static bool expected_error(struct world *w, const struct levee_error *err, const char *where)
{
    char line[1024];

    if (levee_sim_crashed(w->sim)) {
        return true;
    }
    return broken(w, "%s: %s", where, levee_error_format(err, line, sizeof line));
}

static enum life_end finish(struct world *w, struct levee_error *err)
{
    if (levee_drain(w->ctx, 0, err) != LEVEE_OK || levee_await(w->ctx, err) != LEVEE_OK) {
        return expected_error(w, err, "drain") ? LIFE_CRASHED : LIFE_BROKEN;
    }
    return check_end(w) ? LIFE_FINISHED : LIFE_BROKEN;
}

static enum life_end live(struct world *w, bool last)
{
    struct levee_error err = {0};
    struct levee_options o = options_of(w);

    if (levee_get_or_create(&w->ctx, &o, setup, w, &err) != LEVEE_OK) {
        return expected_error(w, &err, "get_or_create") ? LIFE_CRASHED : LIFE_BROKEN;
    }
    if (levee_start(w->ctx, &err) != LEVEE_OK) {
        return expected_error(w, &err, "start") ? LIFE_CRASHED : LIFE_BROKEN;
    }
    w->pushed = w->upstream.durable;
    if (w->pushed < w->acked) {
        (void)broken(w, "record %llu was acknowledged and is gone (%llu are left)",
                     (unsigned long long)w->acked, (unsigned long long)w->pushed);
        return LIFE_BROKEN;
    }
    for (unsigned round = 0; round < 4000 && !levee_sim_crashed(w->sim); round++) {
        int64_t totals[WORLD_WORDS];
        if (!push_some(w) || !note_acks(w)) {
            return LIFE_BROKEN;
        }
        levee_sim_run_ms(w->sim, 1 + pick(w, 30));
        if (!note_acks(w) ||
            (pick(w, 4) == 0 && !read_output(w, totals, w->o->seed % 2 && pick(w, 2)))) {
            return levee_sim_crashed(w->sim) ? LIFE_CRASHED : LIFE_BROKEN;
        }
        if (atomic_load(&w->ctx->life) == RT_STOPPED && !levee_sim_crashed(w->sim)) {
            (void)levee_await(w->ctx, &err);
            return expected_error(w, &err, "stopped by itself") ? LIFE_CRASHED : LIFE_BROKEN;
        }
        if (w->acked == w->o->records && (last || pick(w, 8) == 0)) {
            return finish(w, &err);
        }
    }
    if (!levee_sim_crashed(w->sim)) {
        (void)broken(w, "no progress: %llu of %u acknowledged", (unsigned long long)w->acked,
                     w->o->records);
        return LIFE_BROKEN;
    }
    return LIFE_CRASHED;
}

static void count_crash(struct world *w)
{
    int kind = 0;
    const levee_context *ctx = w->ctx;

    if (ctx && ctx->graph && atomic_load(&ctx->life) >= RT_STARTED) {
        kind = ctx->ckpt.stage != RT_CKPT_NONE ? 4
               : ctx->committing.head          ? 3
               : ctx->computing                ? 2
                                               : 1;
    }
    w->stats->in_flight[kind]++;
    w->stats->crashes++;
    w->stats->by_point[w->any_point ? (int)w->last_point : CP_COUNT]++;
}

bool world_run(const struct world_options *o, struct world_stats *stats, char why[512])
{
    struct world *w = mem_zalloc(sizeof *w);
    struct levee_error err = {0};
    struct levee_sim_options sim = {.seed = o->seed,
                                    .keep_per_mille = (uint32_t)(o->seed % 5) * 250};
    bool ok = w != NULL;

    if (!ok || levee_sim_new(&w->sim, &sim, &err) != LEVEE_OK) {
        mem_free(w);
        (void)snprintf(why, 512, "no memory");
        return false;
    }
    w->o = o;
    w->stats = stats;
    w->why = why;
    w->rng = o->seed * 0x9e3779b97f4a7c15u + 1;
    remote_init(&w->remote, &w->letters, o->seed);
    for (uint32_t i = 0; i < o->records; i++) {
        w->words[i] = (int)pick(w, WORLD_WORDS);
    }
    w->upstream = (struct upstream){.words = w->words,
                                    .rng = o->seed + 5,
                                    .positions = o->seed % 3 == 0,
                                    .padding = tight(w) ? 0 : UPSTREAM_LINE - 24};
    events_init(&w->events, o->seed, w->words, o->records);
    enum life_end end = LIFE_CRASHED;
    for (uint32_t life = 0; end == LIFE_CRASHED && life < o->lives + 20; life++) {
        bool last = life >= o->lives;
        sim.seed = o->seed * 131 + life;
        sim.crash_at_step = last ? 0
                            : life == 0 && o->crash_at
                                ? o->crash_at
                                : 1 + pick(w, 10 + (tight(w) ? 25u : 60u) * (1 + pick(w, 12)));
        sim.garble_per_mille = (1000 - sim.keep_per_mille) / 2;
        levee_sim_set(w->sim, &sim);
        w->sim->io->crash_hook = on_point;
        w->sim->io->crash_arg = w;
        w->any_point = false;
        end = live(w, last);
        stats->lives++;
        if (life == 0) {
            stats->steps = levee_sim_steps(w->sim);
        }
        if (levee_sim_crashed(w->sim)) {
            count_crash(w);
        }
        levee_free(w->ctx);
        w->ctx = NULL;
        if (o->kills_only || pick(w, 4) == 0) {
            levee_sim_kill(w->sim);
        } else {
            levee_sim_power_loss(w->sim);
        }
        stats->images = io_sim_image_hash(w->sim->io);
    }
    ok = end == LIFE_FINISHED;
    stats->reread += w->upstream.reread;
    if (end == LIFE_CRASHED) {
        (void)broken(w, "the last life did not finish");
    }
    levee_sim_free(w->sim);
    mem_free(w);
    return ok;
}
