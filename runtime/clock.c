#include "runtime/clock.h"

#include "runtime/operator.h"

#define CLOCKS_VERSION 1u

/* ---- which clocks there are ---- */

static bool has_clock(const levee_stream *n)
{
    return n->op && (n->op->times || n->op->holds_time);
}

static bool sets_time(const levee_stream *n)
{
    return n->op && n->op->times;
}

/* Marks in seen[] (by node id, up to s's) whatever reaches s, up to those where it ends. */
static void walk_up(const struct rt_graph *g, const levee_stream *s, bool *seen,
                    bool (*ends)(const levee_stream *n))
{
    seen[s->id] = true;
    for (size_t i = s->id + 1u; i-- > 0;) {
        const levee_stream *n = g->nodes[i];
        if (!seen[i] || (n != s && ends(n))) {
            continue;
        }
        for (size_t p = 0; p < n->parent_count; p++) {
            seen[n->parents[p]->id] = true;
        }
    }
}

static int find_above(struct rt_clocks *c, struct rt_clock *clock, const struct rt_graph *g,
                      bool *seen, struct levee_error *err)
{
    memset(seen, 0, g->count * sizeof *seen);
    walk_up(g, clock->node, seen, has_clock);
    clock->above = mem_zalloc((c->count + 1) * sizeof *clock->above);
    if (!clock->above) {
        return err_nomem(err, c->count * sizeof *clock->above);
    }
    for (size_t i = 0; i < c->count; i++) {
        if (seen[c->items[i].node->id]) {
            clock->above[clock->above_count++] = (uint32_t)i;
        }
    }
    return LEVEE_OK;
}

int rt_clocks_init(struct rt_clocks *c, struct rt_graph *g, struct levee_error *err)
{
    bool *seen = mem_zalloc((g->count + 1) * sizeof *seen);
    int code = LEVEE_OK;

    c->items = mem_zalloc((g->count + 1) * sizeof *c->items);
    c->idle = mem_zalloc((g->count + 1) * sizeof *c->idle);
    if (!seen || !c->items || !c->idle) {
        mem_free(seen);
        return err_nomem(err, g->count * sizeof *c->items);
    }
    for (size_t i = 0; i < g->count && code == LEVEE_OK; i++) {
        levee_stream *n = g->nodes[i];
        if (!has_clock(n)) {
            continue;
        }
        struct rt_clock *clock = &c->items[c->count];
        *clock = (struct rt_clock){
            .node = n, .watermark = RT_NO_TIME, .max_ms = RT_NO_TIME, .heard_ms = RT_NO_TIME};
        clock->rule = n->op->times ? n->op->times(n) : NULL;
        if (n->op->shape) {
            clock->shape = n->op->shape(n);
        }
        if (!clock->rule) {
            code = find_above(c, clock, g, seen, err);
        }
        n->clock = (uint32_t)++c->count;
    }
    mem_free(seen);
    return code;
}

void rt_clocks_release(struct rt_clocks *c)
{
    for (size_t i = 0; c->items && i <= c->count; i++) { /* one may have been begun */
        mem_free(c->items[i].above);
    }
    mem_free(c->items);
    mem_free(c->idle);
    *c = (struct rt_clocks){0};
}

bool rt_stream_timed(const levee_stream *s, const levee_stream **ret_where)
{
    const struct rt_graph *g = s->graph;
    bool *seen = mem_zalloc(g->count * sizeof *seen);

    *ret_where = s;
    if (!seen) {
        return false;
    }
    seen[s->id] = true;
    if (!sets_time(s)) {
        walk_up(g, s, seen, sets_time);
    }
    bool timed = true;
    for (size_t i = s->id + 1u; i-- > 0 && timed;) {
        const levee_stream *n = g->nodes[i];
        bool makes_own = n->kind == RT_SOURCE || (n->kind == RT_KEYED && !n->op->keeps_time);
        if (seen[i] && makes_own) {
            *ret_where = n;
            timed = false;
        }
    }
    mem_free(seen);
    return timed;
}

/* ---- reading ---- */

static int64_t higher(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t read_setting(const struct rt_clock *k, int64_t time_ms, bool *ret_idle)
{
    int64_t w = k->watermark;
    bool idle =
        k->rule->idle_ms && k->heard_ms != RT_NO_TIME && time_ms - k->heard_ms >= k->rule->idle_ms;

    if (k->max_ms != RT_NO_TIME) {
        w = higher(w, k->max_ms - k->rule->lateness_ms);
    }
    if (idle && k->rule->idle_clock) {
        w = higher(w, time_ms - k->rule->lateness_ms);
        idle = false;
    }
    *ret_idle = idle;
    return w;
}

static int64_t read_following(const struct rt_clocks *c, const struct rt_clock *k,
                              const int64_t *read, bool *ret_idle)
{
    int64_t lowest = INT64_MAX, highest = RT_NO_TIME;
    bool all_idle = true;

    for (size_t i = 0; i < k->above_count; i++) {
        uint32_t at = k->above[i];
        int64_t given = c->items[at].rule ? read[at] : c->items[at].watermark;
        highest = higher(highest, given);
        if (!c->idle[at]) {
            all_idle = false;
            lowest = given < lowest ? given : lowest;
        }
    }
    *ret_idle = all_idle;
    return higher(k->watermark, all_idle ? highest : lowest);
}

void rt_clocks_read(const struct rt_clocks *c, int64_t time_ms, int64_t *ret)
{
    for (size_t i = 0; i < c->count; i++) {
        const struct rt_clock *k = &c->items[i];
        ret[i] = k->rule ? read_setting(k, time_ms, &c->idle[i])
                         : read_following(c, k, ret, &c->idle[i]);
    }
}

void rt_clocks_move(struct rt_clocks *c, int64_t time_ms, const int64_t *watermarks,
                    struct rt_mark *const *marks)
{
    for (size_t i = 0; i < c->count; i++) {
        struct rt_clock *k = &c->items[i];
        uint64_t records = 0;
        for (uint32_t p = 0; p < k->node->partitions; p++) {
            const struct rt_mark *m = &marks[i][p];
            records += m->records;
            k->late += m->late;
            k->max_ms = m->records ? higher(k->max_ms, m->max_ms) : k->max_ms;
        }
        k->heard_ms = records || k->heard_ms == RT_NO_TIME ? time_ms : k->heard_ms;
        k->watermark = higher(k->watermark, watermarks[i]);
    }
}

uint64_t rt_clocks_late(const struct rt_clocks *c)
{
    uint64_t n = 0;

    for (size_t i = 0; i < c->count; i++) {
        n += c->items[i].late;
    }
    return n;
}

/* ---- storing ---- */

void rt_clocks_encode(const struct rt_clocks *c, struct buf *ret)
{
    buf_u8(ret, CLOCKS_VERSION);
    buf_varint(ret, c->count);
    for (size_t i = 0; i < c->count; i++) {
        const struct rt_clock *k = &c->items[i];
        buf_u32(ret, k->node->table);
        buf_u64(ret, (uint64_t)k->watermark);
        buf_u64(ret, (uint64_t)k->max_ms);
        buf_u64(ret, (uint64_t)k->heard_ms);
        buf_u64(ret, k->late);
        buf_u64(ret, (uint64_t)k->shape.length_ms);
        buf_u64(ret, (uint64_t)k->shape.slide_ms);
        buf_u64(ret, (uint64_t)k->shape.gap_ms);
    }
}

static int check_shape(const struct rt_clock *k, const struct rt_time_shape *stored,
                       struct levee_error *err)
{
    const struct rt_time_shape *own = &k->shape;

    if (stored->length_ms == own->length_ms && stored->slide_ms == own->slide_ms &&
        stored->gap_ms == own->gap_ms) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_ESTATE_VERSION, "the windows of %s are stored with other lengths",
            k->node->uid);
    err_where(err, "%s:%d", k->node->file, k->node->line);
    err_expected(err, "length %lld ms, slide %lld ms, gap %lld ms", (long long)stored->length_ms,
                 (long long)stored->slide_ms, (long long)stored->gap_ms);
    err_found(err, "length %lld ms, slide %lld ms, gap %lld ms", (long long)own->length_ms,
              (long long)own->slide_ms, (long long)own->gap_ms);
    return LEVEE_ESTATE_VERSION;
}

int rt_clocks_decode(struct rt_clocks *c, struct levee_slice bytes, struct levee_error *err)
{
    struct cursor cur = cursor_of(bytes);
    uint8_t version = cur_u8(&cur);
    uint64_t n = cur_varint(&cur);
    int code = LEVEE_OK;

    for (uint64_t i = 0; i < n && !cur.bad && code == LEVEE_OK; i++) {
        struct rt_clock was;
        uint32_t table = cur_u32(&cur);
        was.watermark = (int64_t)cur_u64(&cur);
        was.max_ms = (int64_t)cur_u64(&cur);
        was.heard_ms = (int64_t)cur_u64(&cur);
        was.late = cur_u64(&cur);
        was.shape.length_ms = (int64_t)cur_u64(&cur);
        was.shape.slide_ms = (int64_t)cur_u64(&cur);
        was.shape.gap_ms = (int64_t)cur_u64(&cur);
        for (size_t k = 0; k < c->count && !cur.bad && code == LEVEE_OK; k++) {
            struct rt_clock *own = &c->items[k];
            if (own->node->table == table) {
                own->watermark = was.watermark;
                own->max_ms = was.max_ms;
                own->heard_ms = was.heard_ms;
                own->late = was.late;
                code = check_shape(own, &was.shape, err);
            }
        }
    }
    return code ? code
           : cur.bad || version != CLOCKS_VERSION
               ? err_set(err, LEVEE_ECKPT_CORRUPT, "the stored watermarks do not parse")
               : LEVEE_OK;
}
