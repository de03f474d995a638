/*
 * A receiver of one's own: reads the numbered lines of a journal ("17 some text") from the
 * beginning at every start, and counts their words. Kill it with -9 whenever you like: what levee
 * knows it drops by number. ACKNOWLEDGED names the last line that is durable, and may be forgotten
 * there.
 */
#include "run.h"
#include <levee/connect.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct receiver {
    const char *journal, *acknowledged, *out;
    levee_inlet *inlet;
    pthread_t thread;
    int running;
    _Atomic int stop;
    pthread_mutex_t mutex;
    uint64_t appended, ticket; /* the last line handed to levee, and its ticket */
    uint64_t durable;          /* every ticket up to this one is on disk */
};

/* Only what is on disk here may be forgotten there. */
static void acknowledge(struct receiver *r)
{
    FILE *f = r->durable >= r->ticket ? fopen(r->acknowledged, "w") : NULL;

    if (f) {
        fprintf(f, "%llu\n", (unsigned long long)r->appended);
        fclose(f);
    }
}

/* On levee's log thread: be brief, for the log waits meanwhile. */
static void durable(void *self, uint64_t ticket)
{
    struct receiver *r = self;

    pthread_mutex_lock(&r->mutex);
    r->durable = ticket;
    acknowledge(r);
    pthread_mutex_unlock(&r->mutex);
}

/* The producer is named, so that levee keeps its last number; FULL means: wait and try again. */
static int hand_over(struct receiver *r, uint64_t number, const char *text)
{
    struct levee_record line = {.value = levee_text(text)};
    struct levee_append append = {
        .producer = levee_text("journal"), .first_sequence = number, .records = &line, .count = 1};
    struct levee_error err = {0};
    uint64_t ticket = 0;
    int code = LEVEE_EFULL;

    for (; code == LEVEE_EFULL && !r->stop; nanosleep(&(struct timespec){0, 100}, NULL)) {
        code = levee_inlet_append(r->inlet, &append, &ticket, &err);
    }
    if (code == LEVEE_OK) {
        pthread_mutex_lock(&r->mutex);
        r->appended = number;
        r->ticket = ticket;
        acknowledge(r); /* it may have become durable meanwhile */
        pthread_mutex_unlock(&r->mutex);
    } else if (code != LEVEE_EFULL && code != LEVEE_ESTOPPED) {
        levee_inlet_fail(r->inlet, &err, true); /* a gap in the numbers, for example */
    }
    return code;
}

static void *receive(void *arg)
{
    struct receiver *r = arg;
    FILE *f = fopen(r->journal, "r");
    char *line = NULL;
    size_t room = 0;
    int code = LEVEE_OK;

    while (f && code == LEVEE_OK && !r->stop && getline(&line, &room, f) > 0) {
        char *text;
        uint64_t number = strtoull(line, &text, 10);
        text[strcspn(text, "\n")] = '\0';
        code = hand_over(r, number, text);
    }
    if (f && code == LEVEE_OK && feof(f)) {
        levee_inlet_end(r->inlet); /* run once: everything there was has been handed over */
    }
    free(line);
    if (f) {
        fclose(f);
    }
    return NULL;
}

static int start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct receiver *r = self;

    (void)err;
    r->inlet = inlet;
    r->running = pthread_create(&r->thread, NULL, receive, r) == 0;
    return r->running ? LEVEE_OK : LEVEE_ETHREAD;
}

static void stop(void *self)
{
    struct receiver *r = self;

    r->stop = 1;
    if (r->running) {
        pthread_join(r->thread, NULL);
    }
    r->running = 0;
    r->stop = 0;
}

static const struct levee_receiver_ops receiver_ops = {
    .version = 1, .start = start, .stop = stop, .durable = durable};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    const struct receiver *r = arg;
    struct levee_receiver_options options = {.reliable = true, .replayable = true};
    struct levee_file_sink_options files = {.path = r->out, .value = LEVEE_VALUE_I64};
    levee_stream *lines = levee_receiver_source(ctx, "journal", &options, &receiver_ops, arg);
    levee_stream *pairs = levee_map_to_i64(levee_flat_map(lines, split, NULL), 1);
    levee_stream *counts = levee_reduce_by_key(pairs, &levee_sum_i64);

    levee_file_sink(levee_update_state_by_key(counts, "totals", NULL, levee_update_sum_i64, NULL),
                    "out", &files);
    return levee_context_status(ctx, err);
}

int main(int argc, char **argv)
{
    struct receiver r = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct levee_options o = {
        .batch_interval_ms = 20, .guarantee = LEVEE_EXACTLY_ONCE, .stop_at_end = true};

    if (argc != 5) {
        fputs("usage: custom_receiver JOURNAL ACKNOWLEDGED STATE OUT\n", stderr);
        return 1;
    }
    r.journal = argv[1];
    r.acknowledged = argv[2];
    r.out = argv[4];
    o.directory = argv[3];
    return run(&o, build, &r, NULL);
}
