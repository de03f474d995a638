/* The demo, small: kafka_wordcount on librdkafka's mock broker, five SIGKILLs (process death) while
 * data flows, an independent recount. */
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    int rc = system(
        "TEXT=/usr/share/common-licenses/GPL-3 KILLS=5 SEED=7 scripts/demo"); /* BUILD is inherited,
                                                                                 or the default */

    if (rc != 0) {
        (void)fprintf(stderr, "scripts/demo ended with %d\n", rc);
    }
    (void)printf("%d passed, %d failed\n", rc == 0, rc != 0);
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
