/*
 * Sales joined with a price list that is swapped while the job runs.
 *
 *   stream_join SALES STATE OUT
 *
 * SALES holds lines "item count", and now and then "price item cents": a new price, which counts
 * for the batches that are opened after it was swapped in. OUT gets "item<TAB>count cents" for
 * every sale, with the price that its batch saw; "item<TAB>count ?" without one. Kill it and start
 * it again: a batch that is repeated sees the price that it saw before.
 */
#include "replay.h"

#include <ctype.h>
#include <stdio.h>

#define ITEMS 64

struct job {
    struct replay replay; /* first: build is given its address */
    levee_dataset *prices;
};

/* The words of a line; returns how many, at most 3. */
static int words_of(struct levee_slice line, struct levee_slice words[3])
{
    int n = 0;

    for (size_t at = 0; at < line.len && n < 3; n++) {
        size_t from = at;
        while (at < line.len && !isspace(line.data[at])) {
            at++;
        }
        words[n] = (struct levee_slice){line.data + from, at - from};
        at += at < line.len;
    }
    return n;
}

static int by_item(levee_output *out, const struct levee_record *line, void *arg)
{
    struct levee_slice words[3];

    (void)arg;
    return words_of(line->value, words) == 2 ? levee_emit(out, words[0], words[1]) : 0;
}

static int with_price(levee_output *out, const struct levee_record *sale, void *arg)
{
    struct levee_slice count, price;
    char *text = levee_alloc(out, 64);

    (void)arg;
    if (!text || !levee_sides(sale->value, &count, &price)) {
        return -1;
    }
    int n = snprintf(text, 64, "%.*s %.*s", (int)count.len, (const char *)count.data,
                     price.data ? (int)price.len : 1, price.data ? (const char *)price.data : "?");
    return levee_emit(out, sale->key, (struct levee_slice){(const uint8_t *)text, (size_t)n});
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    if (levee_dataset_open(ctx, "prices", &j->prices, err)) {
        return err->code;
    }
    j->replay.lines = levee_queue_source(ctx, "sales", 2);
    levee_stream *sales = levee_flat_map(j->replay.lines, by_item, NULL);
    levee_stream *priced = levee_join_dataset(sales, j->prices, LEVEE_LEFT_OUTER);
    levee_file_sink(levee_map(priced, with_price, NULL), "out",
                    &(struct levee_file_sink_options){.path = j->replay.out});
    return levee_context_status(ctx, err);
}

/* A line before it is sent: a price goes into the list, which is swapped as a whole. A line that is
 * durable was swapped in before, and what was swapped in last is in force: of such lines only the
 * list is made again. */
static int on_line(void *arg, const char *line, bool durable, struct levee_error *err)
{
    static char items[ITEMS][16], cents[ITEMS][16];
    static struct levee_record list[ITEMS];
    static size_t n;
    const struct job *j = arg;
    char item[16], price[16];
    size_t i = 0;

    if (sscanf(line, "price %15s %15s", item, price) != 2) {
        return LEVEE_OK;
    }
    while (i < n && strcmp(items[i], item) != 0) {
        i++;
    }
    if (i == ITEMS) {
        return LEVEE_OK;
    }
    n = i == n ? n + 1 : n;
    (void)snprintf(items[i], sizeof items[i], "%s", item);
    (void)snprintf(cents[i], sizeof cents[i], "%s", price);
    list[i] = (struct levee_record){.key = levee_text(items[i]), .value = levee_text(cents[i])};
    return durable ? LEVEE_OK : levee_dataset_swap(j->prices, list, n, err);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: stream_join SALES STATE OUT\n", stderr);
        return 1;
    }
    struct job j = {
        .replay = {.file = argv[1], .state = argv[2], .out = argv[3], .on_line = on_line}};
    return replay(&j.replay, build, NULL);
}
