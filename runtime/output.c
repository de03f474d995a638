/* Emitting, the typed helpers, and what a function may know of its batch. */
#include "runtime/operator.h"

bool rt_output_grow(struct levee_output *out)
{
    void *items = out->items;

    if (!mem_grow(&items, &out->cap, out->count + RT_VECTOR, sizeof *out->items)) {
        out->failed = true;
        return false;
    }
    out->items = items;
    return true;
}

int levee_emit(levee_output *out, struct levee_slice key, struct levee_slice value)
{
    return rt_output_add(out, key, value);
}

/* A copy that lives as long as the batch; what is absent stays absent. */
static struct levee_slice copied(levee_output *out, struct levee_slice s)
{
    uint8_t *copy = s.data ? rt_output_alloc(out, s.len) : NULL;

    if (copy && s.len) {
        memcpy(copy, s.data, s.len);
    }
    return slice_of(copy, copy ? s.len : 0);
}

int levee_emit_copy(levee_output *out, struct levee_slice key, struct levee_slice value)
{
    struct levee_slice k = copied(out, key), v = copied(out, value);

    return out->failed ? LEVEE_ENOMEM : rt_output_add(out, k, v);
}

int levee_emit_i64(levee_output *out, struct levee_slice key, int64_t value)
{
    uint8_t *p = rt_output_alloc(out, 8);

    if (!p) {
        return LEVEE_ENOMEM;
    }
    put_le64(p, (uint64_t)value);
    return rt_output_add(out, key, slice_of(p, 8));
}

int levee_emit_f64(levee_output *out, struct levee_slice key, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return levee_emit_i64(out, key, (int64_t)bits);
}

int levee_emit_record(levee_output *out, const struct levee_record *record)
{
    int code = rt_output_add(out, record->key, record->value);

    if (code == LEVEE_OK) {
        out->items[out->count - 1].time_ms = record->time_ms;
    }
    return code;
}

/* ---- words: white space is found 64 bytes at a time, as bits, so that the lengths of the words,
 * which no processor can predict, cost no mispredicted branch per byte ---- */

#define LANE(byte) (0x0101010101010101u * (uint64_t)(byte))

/* Bit i: byte i of the eight at p is white space of the C locale: ' ' or \t..\r. Per byte, the high
 * bit of (x ^ ' ') - 1 borrows nothing from its neighbour because high bits are masked off before
 * and or-ed in after (Mycroft's test, made exact). */
static inline uint64_t spaces_of_8(const uint8_t *p)
{
    uint64_t x = get_le64(p), low = x & LANE(0x7f), high = x & LANE(0x80);
    uint64_t not_blank = (low ^ LANE(' ')) + LANE(0x7f); /* high bit 0: it is ' ' */
    uint64_t from_tab = low + LANE(0x80 - '\t');         /* high bit 1: at or above \t */
    uint64_t above_cr = low + LANE(0x80 - ('\r' + 1));   /* high bit 1: above \r */
    uint64_t space = (~not_blank | (from_tab & ~above_cr)) & ~high & LANE(0x80);

    return ((space >> 7) * 0x0102040810204080u) >> 56; /* gathers the eight bits */
}

static inline uint64_t spaces_of_64(const uint8_t *p)
{
    uint64_t mask = 0;

    for (unsigned i = 0; i < 8; i++) {
        mask |= spaces_of_8(p + (size_t)8 * i) << (8 * i);
    }
    return mask;
}

int levee_emit_words(levee_output *out, struct levee_slice text)
{
    const struct levee_slice none = {NULL, 0};
    const uint8_t *start = NULL; /* of the word that is open; NULL: none */
    uint8_t tail[64];

    ASSERT(text.data || text.len == 0);
    for (size_t at = 0; at < text.len; at += 64) {
        const uint8_t *chunk = text.data + at, *read = chunk;
        if (text.len - at < 64) { /* the last bytes, followed by white space */
            memset(tail, ' ', sizeof tail);
            memcpy(tail, chunk, text.len - at);
            read = tail;
        }
        uint64_t spaces = spaces_of_64(read);
        uint64_t edges =
            spaces ^ (spaces << 1 | (start ? 0u : 1u)); /* each ends what went before */
        for (; edges; edges &= edges - 1) {
            const uint8_t *edge = chunk + __builtin_ctzll(edges);
            if (!start) {
                start = edge;
                continue;
            }
            if (rt_output_add(out, slice_of(start, (size_t)(edge - start)), none) != LEVEE_OK) {
                return LEVEE_ENOMEM;
            }
            start = NULL;
        }
    }
    if (start) { /* text ends with a word and with a chunk */
        return rt_output_add(out, slice_of(start, (size_t)(text.data + text.len - start)), none);
    }
    return LEVEE_OK;
}

void *levee_alloc(levee_output *out, size_t bytes)
{
    return rt_output_alloc(out, bytes);
}

int64_t levee_batch_time(const levee_output *out)
{
    return out->header->time_ms;
}

uint64_t levee_batch_id(const levee_output *out)
{
    return out->header->id;
}

uint64_t levee_batch_seed(const levee_output *out)
{
    return out->header->seed;
}

int64_t levee_i64(struct levee_slice s)
{
    return s.len == 8 ? (int64_t)get_le64(s.data) : 0;
}

double levee_f64(struct levee_slice s)
{
    uint64_t bits = (uint64_t)levee_i64(s);
    double v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

bool levee_group_next(struct levee_slice *group, struct levee_slice *ret_value)
{
    struct cursor c = cursor_of(*group);

    if (group->len == 0) {
        return false;
    }
    struct levee_slice v = cur_slice(&c);
    if (c.bad) {
        return false;
    }
    *ret_value = v;
    *group = slice_of(c.p, cur_left(&c));
    return true;
}
