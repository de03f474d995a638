#include "tests/sim/events.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

#define GAP_MS      60
#define SLOT_MS     100
#define LATENESS_MS 300 /* more than lines are ever out of order */

/* Line i is 10 i late by up to 40 ms; no two of a neighbourhood have the same. */
int64_t events_time(uint32_t line)
{
    int64_t shift = (int64_t)(line * 2654435761u >> 16) % 5;

    return 1000 + 10 * ((int64_t)line - shift) + line % 10;
}

/* ---- the sink ---- */

static int events_token(void *self, enum levee_token_state *ret_state, struct levee_token *ret,
                        struct levee_error *err)
{
    struct events *e = self;

    return place_token(&e->at, ret_state, ret, err);
}

static int events_begin(void *self, const struct levee_token *t, struct levee_error *err)
{
    struct events *e = self;

    e->staged_count = 0;
    return place_stage(&e->at, t, err);
}

static bool find_session(const struct events *e, int word, struct levee_slice value, size_t *ret)
{
    struct levee_event_window_info w;
    bool is = levee_event_window_of(value, &w) && w.firing == LEVEE_FIRED_ON_TIME;

    for (size_t i = 0; i < e->session_count && is; i++) {
        const struct event_session *s = &e->sessions[i];
        if (s->word == word && s->start_ms == w.start_ms && s->end_ms == w.end_ms &&
            s->count == levee_i64(w.value)) {
            *ret = i;
            return true;
        }
    }
    return false;
}

static bool find_line(const struct events *e, int word, int64_t time_ms, size_t *ret)
{
    for (uint32_t i = 0; i < e->lines; i++) {
        if (e->words[i] == word && events_time(i) == time_ms) {
            *ret = i;
            return true;
        }
    }
    return false;
}

/* Which of the things that may come is this? */
static bool recognise(const struct events *e, const struct levee_record *r, struct event *ret)
{
    bool named = r->key.len > 1;
    int word = named ? world_word_index(slice_of(r->key.data + 1, r->key.len - 1)) : -1;

    if (word < 0) {
        return false;
    }
    ret->what = (char)r->key.data[0];
    if (ret->what == 's') {
        return find_session(e, word, r->value, &ret->at);
    }
    if (ret->what == 't') {
        int64_t slot = r->time_ms / SLOT_MS;
        ret->at = (size_t)word * EVENTS_SLOTS + (size_t)slot;
        return r->time_ms % SLOT_MS == 0 && slot < EVENTS_SLOTS && e->slot_set[word][slot];
    }
    return find_line(e, word, r->time_ms, &ret->at);
}

static int events_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                        struct levee_error *err)
{
    struct events *e = self;

    (void)partition;
    for (size_t i = 0; i < n; i++) {
        const struct levee_record *r = &records[i];
        if (e->staged_count == ARRAY_LEN(e->staged) ||
            !recognise(e, r, &e->staged[e->staged_count])) {
            return err_set(err, LEVEE_ESINK_FAILED, "events: %.*s at %lld should not be",
                           (int)r->key.len, (const char *)r->key.data, (long long)r->time_ms);
        }
        e->staged_count++;
    }
    return LEVEE_OK;
}

static bool *seen_of(struct events *e, const struct event *x)
{
    switch (x->what) {
    case 's':
        return &e->sessions[x->at].seen;
    case 't':
        return &e->slot_seen[x->at / EVENTS_SLOTS][x->at % EVENTS_SLOTS];
    default:
        return &e->line_seen[x->at];
    }
}

static int events_commit(void *self, struct levee_error *err)
{
    struct events *e = self;
    int code = place_may_commit(&e->at, err);

    for (size_t i = 0; i < e->staged_count && code == LEVEE_OK; i++) {
        bool *seen = seen_of(e, &e->staged[i]);
        if (*seen) {
            return err_set(err, LEVEE_ESINK_FAILED, "events: %c %zu is a second time here",
                           e->staged[i].what, e->staged[i].at);
        }
        *seen = true;
    }
    return code ? code : place_committed(&e->at, err);
}

static const struct levee_sink_ops events_ops = {
    .version = 1,
    .kind = LEVEE_SINK_TRANSACTIONAL,
    .last_token = events_token,
    .begin = events_begin,
    .write = events_write,
    .commit = events_commit,
};

/* ---- the graph ---- */

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

/* The word, or the key, after a letter that says what it is. */
static int tag(levee_output *out, const struct levee_record *in, void *arg)
{
    uint8_t text[32];

    text[0] = *(const uint8_t *)arg;
    ASSERT(in->key.len < sizeof text);
    memcpy(text + 1, in->key.data, in->key.len);
    return levee_emit_copy(out, slice_of(text, in->key.len + 1), in->value);
}

static int set_timer(levee_output *out, levee_state *state, const struct levee_record *in,
                     void *arg)
{
    (void)out;
    (void)arg;
    return levee_timer_event(state, in->time_ms / SLOT_MS * SLOT_MS + SLOT_MS);
}

static int on_timer(levee_output *out, levee_state *state, struct levee_slice key,
                    const struct levee_timer *timer, void *arg)
{
    (void)state;
    (void)timer;
    (void)arg;
    return levee_emit(out, key, slice_of(NULL, 0));
}

void events_build(levee_stream *lines, struct events *e)
{
    static char session = 's', timer = 't', in_time = 'i', late = 'l';
    levee_stream *words = levee_flat_map(
        levee_event_time(lines, "when", NULL,
                         &(struct levee_event_time_options){.lateness_ms = LATENESS_MS}, NULL),
        split, NULL);
    levee_stream *strict = levee_event_time(
        lines, "strict", NULL, &(struct levee_event_time_options){.late = LEVEE_LATE_SIDE}, NULL);
    levee_stream *sessions =
        levee_event_window(words, "sessions", &levee_count_values,
                           &(struct levee_event_window){.gap_ms = GAP_MS, .bounds = true});
    levee_stream *timers = levee_process_by_key(words, "timers", NULL, set_timer, on_timer, NULL);
    levee_stream *all[] = {levee_map(sessions, tag, &session), levee_map(timers, tag, &timer),
                           levee_map(levee_flat_map(strict, split, NULL), tag, &in_time),
                           levee_map(levee_flat_map(levee_late(strict), split, NULL), tag, &late)};

    (void)levee_sink(levee_union(all, ARRAY_LEN(all)), "events", &events_ops, e);
}

/* ---- what is to come, from the lines alone ---- */

static int by_time(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void find_sessions(struct events *e, int word)
{
    int64_t times[WORLD_RECORDS];
    size_t n = 0;

    for (uint32_t i = 0; i < e->lines; i++) {
        if (e->words[i] == word) {
            times[n++] = events_time(i);
            e->slot_set[word][events_time(i) / SLOT_MS + 1] = true;
        }
    }
    if (n) {
        qsort(times, n, sizeof *times, by_time);
    }
    for (size_t i = 0, first = 0; i < n; i++) {
        if (i + 1 < n && times[i + 1] - times[i] < GAP_MS) {
            continue;
        }
        e->sessions[e->session_count++] = (struct event_session){
            word, times[first], times[i] + GAP_MS, (int64_t)(i + 1 - first), false};
        first = i + 1;
    }
}

void events_init(struct events *e, uint64_t seed, const int *words, uint32_t lines)
{
    int64_t last = 0;

    *e = (struct events){.at = {.rng = seed + 13, .unclear_per_mille = 60, .away_per_mille = 40},
                         .words = words,
                         .lines = lines};
    for (int word = 0; word < WORLD_WORDS; word++) {
        find_sessions(e, word);
    }
    for (uint32_t i = 0; i < lines; i++) {
        last = events_time(i) > last ? events_time(i) : last;
    }
    e->complete_ms = last - LATENESS_MS;
}

const char *events_missing(const struct events *e)
{
    static char text[128];

    for (size_t i = 0; i < e->session_count; i++) {
        const struct event_session *s = &e->sessions[i];
        if (s->seen != (s->end_ms <= e->complete_ms)) {
            (void)snprintf(text, sizeof text, "session [%lld, %lld) of %s is%s there",
                           (long long)s->start_ms, (long long)s->end_ms, world_word(s->word),
                           s->seen ? "" : " not");
            return text;
        }
    }
    for (int w = 0; w < WORLD_WORDS; w++) {
        for (int slot = 0; slot < EVENTS_SLOTS; slot++) {
            bool due = e->slot_set[w][slot] && (int64_t)slot * SLOT_MS <= e->complete_ms;
            if (e->slot_seen[w][slot] != due) {
                (void)snprintf(text, sizeof text, "timer %d of %s has%s fired", slot * SLOT_MS,
                               world_word(w), due ? " not" : "");
                return text;
            }
        }
    }
    for (uint32_t i = 0; i < e->lines; i++) {
        if (!e->line_seen[i]) {
            (void)snprintf(text, sizeof text, "line %u is neither in time nor late", i);
            return text;
        }
    }
    return NULL;
}
