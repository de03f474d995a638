/*
 * Counts the words of a Kafka topic, exactly once, whatever is killed and whenever. Each batch's
 * changed totals go to files in --out; after a drained end (SIGTERM, SIGINT, or --once at the end
 * of the topic) totals.txt there holds all of them, sorted by word.
 */
#include <levee/levee.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAIN_MS 10000

struct settings {
    const char *brokers, *topic, *out;
    struct levee_options levee;
};
static sigset_t stop_signals;

struct totals {
    struct levee_record *items; /* value: 8 bytes, a view into the state like the key */
    size_t count, cap;
};

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    const struct settings *s = arg;
    levee_stream *lines = levee_kafka_source(
        ctx, "lines", &(struct levee_kafka_options){.brokers = s->brokers, .topic = s->topic});
    levee_stream *pairs = levee_map_to_i64(levee_flat_map(lines, split, NULL), 1);
    levee_stream *counts = levee_reduce_by_key(pairs, &levee_sum_i64);
    levee_stream *totals =
        levee_update_state_by_key(counts, "totals", NULL, levee_update_sum_i64, NULL);

    levee_file_sink(totals, "out",
                    &(struct levee_file_sink_options){.path = s->out, .value = LEVEE_VALUE_I64});
    return levee_context_status(ctx, err);
}

/* levee calls are not async-signal-safe: signals are blocked everywhere and waited for here. */
static void *drain_on_signal(void *ctx)
{
    int sig;

    if (sigwait(&stop_signals, &sig) == 0) {
        levee_drain(ctx, DRAIN_MS, NULL);
    }
    return NULL;
}

static int collect(void *arg, struct levee_slice key, struct levee_slice value)
{
    struct totals *t = arg;

    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 1024;
        void *items = realloc(t->items, cap * sizeof *t->items);
        if (!items) {
            return LEVEE_ENOMEM;
        }
        t->items = items;
        t->cap = cap;
    }
    t->items[t->count++] = (struct levee_record){.key = key, .value = value};
    return 0;
}

static int by_word(const void *a, const void *b)
{
    const struct levee_slice x = ((const struct levee_record *)a)->key;
    const struct levee_slice y = ((const struct levee_record *)b)->key;
    int order = memcmp(x.data, y.data, x.len < y.len ? x.len : y.len);

    return order ? order : (x.len > y.len) - (x.len < y.len);
}

/* Whole or not at all, also after a power loss: written aside, synced, renamed, name synced. */
static int publish(const char *out, const struct totals *t)
{
    (void)mkdir(out, 0755); /* without a word no batch has made it; open() says what is wrong */
    int dir = open(out, O_RDONLY | O_DIRECTORY);
    int fd = dir < 0 ? -1 : openat(dir, "totals.tmp", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    int failed = !f;

    for (size_t i = 0; f && i < t->count; i++) {
        const struct levee_record *r = &t->items[i];
        fwrite(r->key.data, 1, r->key.len, f);
        fprintf(f, "\t%lld\n", (long long)levee_i64(r->value));
    }
    if (f) {
        failed = ferror(f) || fflush(f) || fsync(fd);
        failed = fclose(f) || failed;
    }
    failed = failed || renameat(dir, "totals.tmp", dir, "totals.txt") || fsync(dir);
    if (failed) {
        fprintf(stderr, "kafka_wordcount: %s/totals.txt: %s\n", out, strerror(errno));
    }
    if (dir >= 0) {
        close(dir);
    }
    return failed ? 4 : 0;
}

static int write_totals(levee_context *ctx, const char *out, struct levee_error *err)
{
    struct levee_metrics m;
    struct totals t = {0};
    int status;

    levee_context_metrics(ctx, &m);
    if (m.buffered_bytes || m.last_checkpoint_batch < m.last_batch) {
        fputs("kafka_wordcount: the deadline ended the drain; start again to go on\n", stderr);
        return 5;
    }
    if (levee_state_each(ctx, "totals", collect, &t, err)) {
        status = levee_print_error(stderr, err);
    } else {
        if (t.count) {
            qsort(t.items, t.count, sizeof *t.items, by_word);
        }
        status = publish(out, &t);
    }
    free(t.items);
    return status;
}

static int count(struct settings *s)
{
    levee_context *ctx = NULL;
    struct levee_error err = {0};
    pthread_t waiter;
    int status;

    if (levee_get_or_create(&ctx, &s->levee, build, s, &err) || levee_start(ctx, &err)) {
        status = levee_print_error(stderr, &err);
        levee_free(ctx);
        return status;
    }
    if (pthread_create(&waiter, NULL, drain_on_signal, ctx)) {
        levee_free(ctx);
        return 4;
    }
    status =
        levee_await(ctx, &err) ? levee_print_error(stderr, &err) : write_totals(ctx, s->out, &err);
    pthread_cancel(waiter);
    pthread_join(waiter, NULL);
    levee_free(ctx);
    return status;
}

static void log_line(void *arg, int level, const char *line)
{
    (void)arg;
    fprintf(stderr, "%s%s\n", level ? "warning: " : "", line);
}

static int usage(void)
{
    fputs("usage: kafka_wordcount --brokers HOST:PORT --topic NAME --directory STATE --out DIR\n"
          "                       [--batch-ms N] [--workers N] [--once] [--verbose]\n",
          stderr);
    return 1;
}

int main(int argc, char **argv)
{
    struct settings s = {.levee = {.guarantee = LEVEE_EXACTLY_ONCE}};
    const char *batch_ms = "100", *workers = "0";
    int once = 0, verbose = 0, c;
    const struct option options[] = {
        {"brokers", 1, NULL, 'b'}, {"topic", 1, NULL, 't'},    {"directory", 1, NULL, 'd'},
        {"out", 1, NULL, 'o'},     {"batch-ms", 1, NULL, 'm'}, {"workers", 1, NULL, 'w'},
        {"once", 0, &once, 1},     {"verbose", 0, NULL, 'v'},  {NULL, 0, NULL, 0}};

    while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1) {
        const char **text = c == 'b'   ? &s.brokers
                            : c == 't' ? &s.topic
                            : c == 'd' ? &s.levee.directory
                            : c == 'o' ? &s.out
                            : c == 'm' ? &batch_ms
                            : c == 'w' ? &workers
                                       : NULL;
        if (text) {
            *text = optarg;
        } else if (c == 'v') {
            verbose = 1;
        } else if (c != 0) {
            return usage();
        }
    }
    if (!s.brokers || !s.topic || !s.levee.directory || !s.out || optind != argc) {
        return usage();
    }
    s.levee.batch_interval_ms = (uint32_t)strtoul(batch_ms, NULL, 10);
    s.levee.workers = (uint32_t)strtoul(workers, NULL, 10);
    s.levee.stop_at_end = once;
    s.levee.log = verbose ? log_line : NULL; /* NULL: warnings only */
    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGTERM);
    sigaddset(&stop_signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop_signals, NULL); /* before any thread: all inherit it */
    return count(&s);
}
