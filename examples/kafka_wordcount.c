/*
 * Counts the words of a Kafka topic, exactly once, whatever is killed and whenever. Each batch's
 * changed totals go to files in --out, to a topic (word → total, one transaction per batch), or
 * both. After a drained end (SIGTERM, SIGINT, or --once at the end of the topic) OUT/totals.txt
 * holds all of them, sorted by word.
 */
#include "run.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct settings {
    const char *brokers, *topic, *directory, *out, *output_topic, *batch_ms, *workers, *mode;
};
struct totals {
    struct levee_record *items; /* views into the state */
    size_t count;
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    const struct settings *s = arg;
    struct levee_kafka_options from = {.brokers = s->brokers, .topic = s->topic};
    from.mode = strcmp(s->mode, "positions") == 0 ? LEVEE_KAFKA_POSITIONS : LEVEE_KAFKA_DATA;
    levee_stream *lines = levee_kafka_source(ctx, "lines", &from);
    levee_stream *pairs = levee_map_to_i64(levee_flat_map(lines, split, NULL), 1);
    levee_stream *counts = levee_reduce_by_key(pairs, &levee_sum_i64);
    levee_stream *totals =
        levee_update_state_by_key(counts, "totals", NULL, levee_update_sum_i64, NULL);

    struct levee_file_sink_options files = {.path = s->out, .value = LEVEE_VALUE_I64};
    struct levee_kafka_sink_options kafka = {
        .brokers = s->brokers, .topic = s->output_topic, .value = LEVEE_VALUE_I64};
    if (s->out) {
        levee_file_sink(totals, "out", &files);
    }
    if (s->output_topic) {
        levee_kafka_sink(totals, "topic", &kafka);
    }
    return levee_context_status(ctx, err);
}

static int collect(void *arg, struct levee_slice key, struct levee_slice value)
{
    struct totals *t = arg;

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

/* Whole or not at all, also after a power loss: written aside, synced, renamed. */
static int publish(const char *out, const struct totals *t)
{
    (void)mkdir(out, 0755); /* without a word no batch has made it; open() says what is wrong */
    int dir = open(out, O_RDONLY | O_DIRECTORY);
    int fd = dir < 0 ? -1 : openat(dir, "totals.tmp", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    int failed = !f;

    for (size_t i = 0; f && i < t->count; i++) {
        fwrite(t->items[i].key.data, 1, t->items[i].key.len, f);
        fprintf(f, "\t%lld\n", (long long)levee_i64(t->items[i].value));
    }
    if (f) {
        failed = ferror(f) || fflush(f) || fsync(fd);
        failed = fclose(f) || failed;
    }
    failed = failed || renameat(dir, "totals.tmp", dir, "totals.txt") || fsync(dir);
    if (failed) {
        perror("kafka_wordcount: totals.txt");
    }
    if (dir >= 0) {
        close(dir);
    }
    return failed ? 4 : 0;
}

static int write_totals(levee_context *ctx, void *arg, struct levee_error *err)
{
    const struct settings *s = arg;
    struct levee_metrics m;
    int status = 4; /* no memory */

    levee_context_metrics(ctx, &m);
    if (m.buffered_bytes || m.last_checkpoint_batch < m.last_batch) {
        fputs("kafka_wordcount: the deadline ended the drain; start again to go on\n", stderr);
        return 5;
    }
    struct totals t = {.items = calloc(m.state_keys + 1, sizeof *t.items)};
    if (t.items && levee_state_each(ctx, "totals", collect, &t, err) == LEVEE_OK) {
        qsort(t.items, t.count, sizeof *t.items, by_word);
        status = s->out ? publish(s->out, &t) : 0;
    }
    free(t.items);
    return status;
}

int main(int argc, char **argv)
{
    struct settings s = {.batch_ms = "100", .workers = "0", .mode = "data"};
    int once = 0, verbose = 0, c;
    const char **const to[] = {&s.brokers,      &s.topic, &s.directory, &s.out,
                               &s.output_topic, &s.mode,  &s.batch_ms,  &s.workers};
    const struct option options[] = {{"brokers", 1, NULL, 1},
                                     {"topic", 1, NULL, 2},
                                     {"directory", 1, NULL, 3},
                                     {"out", 1, NULL, 4},
                                     {"output-topic", 1, NULL, 5},
                                     {"mode", 1, NULL, 6},
                                     {"batch-ms", 1, NULL, 7},
                                     {"workers", 1, NULL, 8},
                                     {"once", 0, &once, 1},
                                     {"verbose", 0, &verbose, 1},
                                     {NULL, 0, NULL, 0}};

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c >= 1 && c <= 8) {
            *to[c - 1] = optarg;
        }
        optind = c == '?' ? argc + 1 : optind;
    }
    if (!s.brokers || !s.topic || !s.directory || !(s.out || s.output_topic) || optind != argc) {
        fputs("usage: kafka_wordcount --brokers HOST:PORT --topic NAME --directory STATE\n"
              "    [--out DIR] [--output-topic NAME] [--mode data|positions] [--batch-ms N]\n"
              "    [--workers N] [--once] [--verbose]\n",
              stderr);
        return 1;
    }
    struct levee_options o = {.directory = s.directory,
                              .batch_interval_ms = (uint32_t)strtoul(s.batch_ms, NULL, 10),
                              .workers = (uint32_t)strtoul(s.workers, NULL, 10),
                              .guarantee = LEVEE_EXACTLY_ONCE,
                              .stop_at_end = once,
                              .log = verbose ? log_line : NULL}; /* NULL: warnings only */
    return run(&o, build, &s, write_totals);
}
