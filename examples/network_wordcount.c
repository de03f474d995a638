/*
 * Spark's NetworkWordCount with memory: counts the words of the lines that a TCP server sends
 * (nc -lk 9999) and keeps the totals in ./network_wordcount.state, through any kill.
 */
#include <levee/levee.h>

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    const char *address = arg;
    levee_stream *lines =
        levee_tcp_source(ctx, "lines", &(struct levee_tcp_options){.address = address});
    levee_stream *pairs = levee_map_to_i64(levee_flat_map(lines, split, NULL), 1);
    levee_stream *counts = levee_reduce_by_key(pairs, &levee_sum_i64);

    levee_print(levee_update_state_by_key(counts, "totals", NULL, levee_update_sum_i64, NULL), 10);
    return levee_context_status(ctx, err);
}

int main(int argc, char **argv)
{
    struct levee_options options = {.directory = "network_wordcount.state",
                                    .batch_interval_ms = 1000};
    levee_context *ctx = NULL;
    struct levee_error err = {0};
    char address[300];
    int status = 0;

    if (argc != 3 || snprintf(address, sizeof address, "%s:%s", argv[1], argv[2]) >= 300) {
        fputs("usage: network_wordcount HOST PORT\n", stderr);
        return 1;
    }
    if (levee_get_or_create(&ctx, &options, build, address, &err) || levee_start(ctx, &err) ||
        levee_await(ctx, &err)) {
        status = levee_print_error(stderr, &err);
    }
    levee_free(ctx);
    return status;
}
