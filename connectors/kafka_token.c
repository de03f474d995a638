/*
 * The Kafka sink's evidence: the token in the group's offset metadata, and, when that has vanished,
 * the records themselves.
 *
 * A broker forgets a group's offsets: after offsets.retention.minutes without a commit, when the
 * topic is deleted, when an operator deletes the group. Our log then still knows that something was
 * written (SINK_NOTE), so a missing token is never taken for "nothing was written". The note holds
 * the end offsets of the output and where the last header of ours was. From there a read_committed
 * scan finds the newest header: the last record of every batch carries one. The scan is believed
 * only if nothing between the remembered ends and the topic's present start can have been deleted,
 * and if the record that the note names is still the one it was.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "connectors/kafka_sink.h"

#define SCAN_MS      100
#define NOTE_VERSION 1

/* ---- text ---- */

void ksink_token_text(const struct levee_token *t, char out[KSINK_TOKEN_TEXT])
{
    char part[32] = "";

    if (t->records) {
        (void)snprintf(part, sizeof part, " records=%" PRIu64, t->records);
    }
    (void)snprintf(out, KSINK_TOKEN_TEXT,
                   "levee1 %s %s epoch=%" PRIu64 " batch=%" PRIu64 " time=%" PRId64
                   " digest=%016" PRIx64 "%s",
                   t->context, t->uid, t->epoch, t->batch, t->time_ms, t->digest, part);
}

bool ksink_token_parse(const char *text, size_t len, struct levee_token *ret)
{
    char copy[KSINK_TOKEN_TEXT], end;
    struct levee_token t = {0};

    if (len >= sizeof copy || memchr(text, 0, len)) {
        return false;
    }
    memcpy(copy, text, len);
    copy[len] = 0;
    /* A number too large is a token that compares with nothing: it is refused by what it says. */
    int n = sscanf(copy, /* NOLINT(cert-err34-c) */
                   "levee1 %32[0-9a-f] %64[A-Za-z0-9._-] epoch=%" SCNu64 " batch=%" SCNu64
                   " time=%" SCNd64 " digest=%" SCNx64 "%c",
                   t.context, t.uid, &t.epoch, &t.batch, &t.time_ms, &t.digest, &end);
    if (n == 7 && end == ' ') { /* a batch in parts */
        const char *part = strrchr(copy, ' ');
        n = sscanf(part, " records=%" SCNu64 "%c", &t.records, &end) == 1 && t.records /* NOLINT */
                ? 6
                : 0;
    }
    if (n != 6) {
        return false;
    }
    *ret = t;
    return true;
}

bool ksink_token_newer(const struct levee_token *a, const struct levee_token *b)
{
    uint64_t part_a = a->records ? a->records : UINT64_MAX,
             part_b = b->records ? b->records : UINT64_MAX;

    return a->batch > b->batch || (a->batch == b->batch && part_a > part_b);
}

static bool is_ours(const struct kafka_sink *s, const struct levee_token *t)
{
    return strcmp(t->context, s->identity.context) == 0 && strcmp(t->uid, s->identity.uid) == 0;
}

/* ---- reading it back ---- */

/* Not rd_kafka_poll: that hands the event to the error callback, as text. */
void ksink_reader_listen(struct kafka_sink *s)
{
    rd_kafka_message_t *m;

    while ((m = rd_kafka_consumer_poll(s->reader, 0)) != NULL) {
        if (m->err && ksink_outcome_of(m->err, false, false, false) == KSINK_REFUSED) {
            s->reader_denied = m->err;
        }
        rd_kafka_message_destroy(m);
    }
}

int ksink_token_read(struct kafka_sink *s, enum levee_token_state *ret_state,
                     struct levee_token *ret, struct levee_error *err)
{
    int code = ksink_reader_open(s, err);

    if (code) {
        return code;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *p = rd_kafka_topic_partition_list_add(list, s->topic, 0);
    rd_kafka_resp_err_t rc = rd_kafka_committed(s->reader, list, KSINK_ASK_MS);
    rc = rc ? rc : p->err;
    ksink_reader_listen(s);
    if (!rc) {
        s->reader_denied = RD_KAFKA_RESP_ERR_NO_ERROR;
    } else if (s->reader_denied) { /* then the question itself only times out */
        rc = s->reader_denied;
    }
    if (rc) {
        enum ksink_outcome o = ksink_outcome_of(rc, false, true, false);
        code = ksink_error(s, o, "reading the token", rd_kafka_err2str(rc), err);
    } else if (p->offset < 0 && p->metadata_size == 0) {
        *ret_state = LEVEE_TOKEN_NEVER;
    } else if (!ksink_token_parse(p->metadata, p->metadata_size, ret) || !is_ours(s, ret)) {
        *ret_state = s->adopt ? LEVEE_TOKEN_NEVER : LEVEE_TOKEN_FOREIGN;
    } else {
        *ret_state = LEVEE_TOKEN_FOUND;
        s->there = *ret;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

/* ---- the note ---- */

static bool room_for(struct kafka_sink *s, int32_t partitions)
{
    int32_t old = s->ends_cap;

    if (partitions <= old) {
        return true;
    }
    int64_t *ends = mem_alloc((size_t)partitions * sizeof *ends);
    if (!ends) {
        return false;
    }
    for (int32_t p = 0; p < partitions; p++) {
        ends[p] = p < old ? s->ends[p] : -1;
    }
    mem_free(s->ends);
    s->ends = ends;
    s->ends_cap = partitions;
    return true;
}

int ksink_ends(struct kafka_sink *s, struct levee_error *err)
{
    if (!room_for(s, s->partition_count)) {
        return err_nomem(err, (size_t)s->partition_count * sizeof *s->ends);
    }
    for (int32_t p = 0; p < s->partition_count; p++) {
        int64_t low = 0, high = 0;
        rd_kafka_resp_err_t rc =
            rd_kafka_query_watermark_offsets(s->active->rk, s->topic, p, &low, &high, KSINK_ASK_MS);
        if (rc) {
            return ksink_error(s, KSINK_AGAIN, "asking for its end", rd_kafka_err2str(rc), err);
        }
        s->ends[p] = high;
    }
    return LEVEE_OK;
}

size_t ksink_note(void *self, void *buf, size_t cap)
{
    const struct kafka_sink *s = self;
    struct buf b = {0};
    size_t n = 0;

    buf_u8(&b, NOTE_VERSION);
    buf_u32(&b, (uint32_t)s->mark.partition);
    buf_u64(&b, (uint64_t)s->mark.offset);
    buf_u64(&b, s->mark.batch);
    buf_u32(&b, (uint32_t)s->ends_cap);
    for (int32_t p = 0; p < s->ends_cap; p++) {
        buf_u64(&b, (uint64_t)s->ends[p]);
    }
    if (!b.failed && b.len <= cap) {
        memcpy(buf, b.data, b.len);
        n = b.len;
    }
    buf_release(&b);
    return n; /* 0 for lack of memory: the note before it still holds */
}

static bool note_decode(struct kafka_sink *s, struct levee_slice note)
{
    struct cursor c = cursor_of(note);
    uint8_t version = cur_u8(&c);

    s->mark.partition = (int32_t)cur_u32(&c);
    s->mark.offset = (int64_t)cur_u64(&c);
    s->mark.batch = cur_u64(&c);
    uint32_t n = cur_u32(&c);
    if (c.bad || version != NOTE_VERSION || n > KSINK_PARTITIONS || !room_for(s, (int32_t)n)) {
        return false;
    }
    for (uint32_t p = 0; p < n; p++) {
        s->ends[p] = (int64_t)cur_u64(&c);
    }
    return !c.bad;
}

/* ---- the search ---- */

struct scan {
    struct kafka_sink *s;
    int32_t partitions, at_end;
    bool found, mark_seen, mark_differs;
    struct levee_token newest;
    struct ksink_position where;
};

static bool header_of(const rd_kafka_message_t *m, struct levee_token *ret)
{
    rd_kafka_headers_t *headers = NULL;
    const void *value;
    size_t len;

    return rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
           rd_kafka_header_get_last(headers, KSINK_HEADER, &value, &len) ==
               RD_KAFKA_RESP_ERR_NO_ERROR &&
           value && ksink_token_parse(value, len, ret);
}

static void look_at(struct scan *c, const rd_kafka_message_t *m)
{
    const struct ksink_position *mark = &c->s->mark;
    struct levee_token t;
    bool ours = header_of(m, &t) && is_ours(c->s, &t);

    if (m->partition == mark->partition && m->offset == mark->offset) {
        c->mark_seen = true;
        c->mark_differs = !ours || t.batch != mark->batch;
    }
    if (ours && (!c->found || ksink_token_newer(&t, &c->newest))) {
        c->found = true;
        c->newest = t;
        c->where = (struct ksink_position){m->partition, m->offset, t.batch};
    }
}

static int lost(struct scan *c, enum levee_token_state *ret_state, struct levee_error *err)
{
    *ret_state = LEVEE_TOKEN_LOST;
    err_where(err, "topic %s, group %s", c->s->topic, c->s->group);
    return LEVEE_OK;
}

/* Where the scan of each partition begins: at the remembered end, or one before it to see the
 * marked record. false: records that might tell are gone; err says which. */
static int assign(struct scan *c, bool *ret_gone, struct levee_error *err)
{
    struct kafka_sink *s = c->s;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(c->partitions);
    int code = LEVEE_OK;

    for (int32_t p = 0; p < c->partitions && code == LEVEE_OK && !*ret_gone; p++) {
        int64_t low = 0, high = 0, from = p < s->ends_cap && s->ends[p] > 0 ? s->ends[p] : 0;
        rd_kafka_resp_err_t rc =
            rd_kafka_query_watermark_offsets(s->reader, s->topic, p, &low, &high, KSINK_ASK_MS);
        if (rc) {
            code = ksink_error(s, KSINK_AGAIN, "asking for its end", rd_kafka_err2str(rc), err);
        } else if (high < from || low > from) {
            *ret_gone = true;
            err_set(err, LEVEE_ESINK_BEHIND,
                    high < from
                        ? "partition %d is shorter than it was: topic made anew, or truncated"
                        : "records of partition %d are gone that might tell the last batch",
                    (int)p);
            err_expected(err, "offset %" PRId64, from);
            err_found(err, "offsets %" PRId64 " to below %" PRId64, low, high);
        }
        if (p == s->mark.partition && s->mark.offset >= low && s->mark.offset < from) {
            from = s->mark.offset;
        }
        rd_kafka_topic_partition_list_add(list, s->topic, p)->offset = from;
    }
    if (code == LEVEE_OK && !*ret_gone && rd_kafka_assign(s->reader, list)) {
        code = ksink_error(s, KSINK_AGAIN, "assigning its partitions", "", err);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

static int read_on(struct scan *c, struct levee_error *err)
{
    struct kafka_sink *s = c->s;
    uint64_t quiet_since = s->io->ops->now_ns(s->io);
    int code = LEVEE_OK;

    while (c->at_end < c->partitions && code == LEVEE_OK) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(s->reader, SCAN_MS);
        uint64_t now = s->io->ops->now_ns(s->io);
        if (!m) {
            if (now > quiet_since + (uint64_t)KSINK_ASK_MS * 1000000u) {
                code = ksink_error(s, KSINK_AGAIN, "reading it", "no answer", err);
            }
            continue;
        }
        quiet_since = now;
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            c->at_end++;
        } else if (m->err) {
            code = ksink_error(s, ksink_outcome_of(m->err, false, true, false), "reading it",
                               rd_kafka_err2str(m->err), err);
        } else {
            look_at(c, m);
        }
        rd_kafka_message_destroy(m);
    }
    (void)rd_kafka_assign(s->reader, NULL);
    return code;
}

static int count_partitions(struct scan *c, struct levee_error *err)
{
    struct kafka_sink *s = c->s;
    rd_kafka_resp_err_t rc = kafka_ask_topic(s->reader, s->topic, KSINK_ASK_MS, &c->partitions);

    return !rc && c->partitions > 0 ? LEVEE_OK
                                    : ksink_error(s, KSINK_AGAIN, "asking for its partitions",
                                                  rd_kafka_err2str(rc), err);
}

static int scan_all(struct scan *c, bool *ret_gone, struct levee_error *err)
{
    struct kafka_sink *s = c->s;
    bool stable = s->stable;

    ksink_reader_close(s);
    s->stable = true; /* an aborted transaction's header proves nothing */
    int code = ksink_reader_open(s, err);
    if (code == LEVEE_OK) {
        code = count_partitions(c, err);
    }
    if (code == LEVEE_OK) {
        code = assign(c, ret_gone, err);
    }
    if (code == LEVEE_OK && !*ret_gone) {
        code = read_on(c, err);
    }
    ksink_reader_close(s);
    s->stable = stable;
    return code;
}

/* Whether what was written is all there. true in *ret_gone: it is not, or nobody can tell any more,
 * and err says which. */
static int examine(struct scan *c, bool *ret_gone, struct levee_error *err)
{
    const struct ksink_position *mark = &c->s->mark;
    int code = scan_all(c, ret_gone, err);

    if (code == LEVEE_OK && !*ret_gone && c->mark_differs) {
        *ret_gone = true;
        err_set(err, LEVEE_ESINK_BEHIND,
                "the record of batch %" PRIu64 " is another one: the topic was made anew",
                mark->batch);
        err_expected(err, "our header at partition %d, offset %" PRId64, (int)mark->partition,
                     mark->offset);
    }
    return code;
}

int ksink_still_there(struct kafka_sink *s, struct levee_error *err)
{
    enum levee_token_state state = LEVEE_TOKEN_NEVER;
    struct levee_token t = {0};
    struct scan c = {.s = s};
    bool gone = false;
    int code = ksink_token_read(s, &state, &t, err);

    if (code || state != LEVEE_TOKEN_NEVER || s->adopt) {
        return code;
    }
    if ((code = examine(&c, &gone, err)) == LEVEE_OK && gone) {
        err_where(err, "topic %s, group %s", s->topic, s->group);
        code = LEVEE_ESINK_BEHIND;
    }
    return code;
}

int ksink_search(void *self, struct levee_slice note, uint64_t confirmed,
                 enum levee_token_state *ret_state, struct levee_token *ret_token,
                 struct levee_error *err)
{
    struct kafka_sink *s = self;
    struct scan c = {.s = s};
    bool gone = false;

    if (!note_decode(s, note)) {
        (void)err_set(err, LEVEE_ESINK_BEHIND, "what was remembered of it does not parse");
        return lost(&c, ret_state, err);
    }
    int code = examine(&c, &gone, err);
    if (code) {
        return code;
    }
    if (gone) {
        return lost(&c, ret_state, err);
    }
    *ret_token = c.found ? c.newest : s->identity;
    if (!c.found || c.newest.batch < confirmed) {
        ret_token->batch = confirmed; /* nothing was added behind what log or checkpoint know */
        ret_token->digest = ret_token->records = 0;
    }
    s->there = *ret_token;
    s->mark = c.found ? c.where : s->mark;
    *ret_state = LEVEE_TOKEN_FOUND;
    return LEVEE_OK;
}
