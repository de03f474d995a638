/*
 * Sessions with state and timers of our own: who clicked from when to when, how often, and where
 * last. A session is over when its user has not clicked for half a minute of event time.
 *
 *   stateful_sessions CLICKS STATE OUT
 *
 * CLICKS holds lines "ms user page", those of a user in order. OUT gets "user<TAB>from to clicks
 * page". Kill it and start it again: sessions that were open go on. (Plain sessions over a reducer
 * are one call, levee_event_window with .gap_ms; see click_audit.c for windows.)
 */
#include "replay.h"

#include <inttypes.h>

#define GAP_MS 30000

/* A user's session, as it is stored. The layout belongs to the state's version. */
struct session {
    int64_t from_ms, to_ms, clicks;
    char page[40];
};

/* "ms user page": false if it is not. */
static bool parse(const struct levee_record *line, struct levee_record *ret)
{
    struct levee_slice text = line->value, *parts[] = {&ret->key, &ret->value};
    size_t at = 0;

    ret->time_ms = 0;
    for (; at < text.len && at < 15 && text.data[at] >= '0' && text.data[at] <= '9'; at++) {
        ret->time_ms = ret->time_ms * 10 + (text.data[at] - '0');
    }
    bool ok = at > 0;
    for (int i = 0; i < 2 && ok; i++) {
        ok = at < text.len && text.data[at] == ' ';
        at += ok;
        *parts[i] = (struct levee_slice){text.data + at, 0};
        for (; at < text.len && text.data[at] != ' '; at++) {
            parts[i]->len++;
        }
    }
    return ok && at == text.len;
}

static int click_time(const struct levee_record *line, int64_t *ret_time_ms, void *arg)
{
    struct levee_record click;

    (void)arg;
    if (!parse(line, &click)) {
        return -1; /* not a click: a dead letter */
    }
    *ret_time_ms = click.time_ms;
    return 0;
}

static int by_user(levee_output *out, const struct levee_record *line, void *arg)
{
    struct levee_record click;

    (void)arg;
    return parse(line, &click) ? levee_emit_record(out, &click) : -1;
}

static int emit_session(levee_output *out, struct levee_slice user, const struct session *s)
{
    char text[160];

    (void)snprintf(text, sizeof text, "%" PRId64 " %" PRId64 " %" PRId64 " %s", s->from_ms,
                   s->to_ms, s->clicks, s->page);
    return levee_emit_copy(out, user, levee_text(text));
}

static bool load(const levee_state *state, struct session *ret)
{
    struct levee_slice stored;
    bool open = levee_state_get(state, &stored) && stored.len == sizeof *ret;

    if (open) {
        memcpy(ret, stored.data, sizeof *ret);
    }
    return open;
}

/* The watermark follows a batch behind, so a click may begin the next session before the timer of
 * the last one has fired. */
static int on_click(levee_output *out, levee_state *state, const struct levee_record *click,
                    void *arg)
{
    struct session s;
    bool open = load(state, &s);

    (void)arg;
    if (open) {
        levee_timer_cancel_event(state, s.to_ms + GAP_MS);
    }
    if (open && click->time_ms - s.to_ms >= GAP_MS) {
        if (emit_session(out, click->key, &s)) {
            return -1;
        }
        open = false;
    }
    if (!open) {
        memset(&s, 0, sizeof s);
        s.from_ms = click->time_ms;
    }
    s.to_ms = click->time_ms;
    s.clicks++;
    (void)snprintf(s.page, sizeof s.page, "%.*s", (int)click->value.len,
                   (const char *)click->value.data);
    int code = levee_timer_event(state, s.to_ms + GAP_MS);
    return code ? code
                : levee_state_set(state, (struct levee_slice){(const uint8_t *)&s, sizeof s});
}

static int on_silence(levee_output *out, levee_state *state, struct levee_slice user,
                      const struct levee_timer *timer, void *arg)
{
    struct session s;

    (void)timer;
    (void)arg;
    if (!load(state, &s)) {
        return 0;
    }
    levee_state_remove(state);
    return emit_session(out, user, &s);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct replay *r = arg;

    r->lines = levee_queue_source(ctx, "clicks", 1);
    levee_stream *clicks = levee_event_time(r->lines, "click-time", click_time, NULL, NULL);
    levee_stream *sessions = levee_process_by_key(levee_map(clicks, by_user, NULL), "sessions",
                                                  NULL, on_click, on_silence, NULL);
    levee_file_sink(sessions, "out", &(struct levee_file_sink_options){.path = r->out});
    return levee_context_status(ctx, err);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: stateful_sessions CLICKS STATE OUT\n", stderr);
        return 1;
    }
    return replay(&(struct replay){.file = argv[1], .state = argv[2], .out = argv[3]}, build, NULL);
}
