/*
 * Clicks per page and minute of event time, and an account of every line: each is counted in its
 * minute, or late (in LATE), or a dead letter because it is no click. Nothing is dropped silently.
 *
 *   click_audit CLICKS STATE OUT
 *
 * CLICKS holds lines "ms user page". OUT/counts gets "minute page<TAB>clicks" when a minute is
 * over, and again for a click that comes up to a minute late: the last one counts. OUT/late gets
 * the lines that came later still. At the end dead letters are printed.
 */
#include "replay.h"

#include <inttypes.h>

#define MINUTE_MS 60000

/* "ms user page": false if it is not. */
static bool parse(const struct levee_record *line, struct levee_record *ret)
{
    char text[256], *end;
    size_t n = line->value.len < sizeof text ? line->value.len : 0;

    memcpy(text, line->value.data, n);
    text[n] = '\0';
    *ret = *line;
    ret->time_ms = strtoll(text, &end, 10);
    const char *user = end > text && *end == ' ' ? end + 1 : "";
    const char *page = strchr(user, ' ');
    if (!page || page == user || page[1] == '\0' || strchr(page + 1, ' ')) {
        return false;
    }
    ret->key = (struct levee_slice){line->value.data + (page + 1 - text), strlen(page + 1)};
    return ret->time_ms >= 0 && ret->time_ms < INT64_MAX;
}

static int click_time(const struct levee_record *line, int64_t *ret_time_ms, void *arg)
{
    struct levee_record click;

    (void)arg;
    if (!parse(line, &click)) {
        return -1; /* no click: a dead letter */
    }
    *ret_time_ms = click.time_ms;
    return 0;
}

/* The page becomes the key; the whole line stays the value, for LATE. */
static int by_page(levee_output *out, const struct levee_record *line, void *arg)
{
    struct levee_record click;

    (void)arg;
    return parse(line, &click) ? levee_emit_record(out, &click) : -1;
}

/* A window's result → ("minute page", clicks). */
static int minute_and_page(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_event_window_info w;
    char key[160];

    (void)arg;
    if (!levee_event_window_of(in->value, &w)) {
        return -1;
    }
    (void)snprintf(key, sizeof key, "%" PRId64 " %.*s", w.start_ms / MINUTE_MS, (int)in->key.len,
                   (const char *)in->key.data);
    return levee_emit_copy(out, levee_text(key), w.value);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct replay *r = arg;
    char counts[512], late[512];

    (void)snprintf(counts, sizeof counts, "%s/counts", r->out);
    (void)snprintf(late, sizeof late, "%s/late", r->out);
    r->lines = levee_queue_source(ctx, "clicks", 2);
    levee_stream *clicks =
        levee_event_time(r->lines, "click-time", click_time,
                         &(struct levee_event_time_options){.lateness_ms = 5000}, NULL);
    levee_stream *minutes =
        levee_event_window(levee_map(clicks, by_page, NULL), "minutes", &levee_count_values,
                           &(struct levee_event_window){.length_ms = MINUTE_MS,
                                                        .allowed_lateness_ms = MINUTE_MS,
                                                        .late = LEVEE_LATE_SIDE,
                                                        .bounds = true});
    levee_file_sink(levee_map(minutes, minute_and_page, NULL), "counts",
                    &(struct levee_file_sink_options){.path = counts, .value = LEVEE_VALUE_I64});
    levee_file_sink(levee_late(minutes), "late", &(struct levee_file_sink_options){.path = late});
    return levee_context_status(ctx, err);
}

static int print_letter(void *arg, const struct levee_dead_letter *letter)
{
    (void)arg;
    printf("dead letter: %s, code %d: %.*s\n", letter->uid, letter->code, (int)letter->value.len,
           (const char *)letter->value.data);
    return 0;
}

static void print_letters(levee_context *ctx)
{
    (void)levee_dead_letters_each(ctx, print_letter, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: click_audit CLICKS STATE OUT\n", stderr);
        return 1;
    }
    return replay(&(struct replay){.file = argv[1], .state = argv[2], .out = argv[3]}, build,
                  print_letters);
}
