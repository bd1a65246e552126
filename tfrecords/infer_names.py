"""The names that the keys and labels of logs go by, words joined by `_`."""

import re

# Of rows that may lack a value, without which a row is rejected.
MOST_MISSING = 0.005
# In order of preference.
CLICKS = (
    "click", "clicked", "is_click", "is_clicked", "click_label", "was_clicked", "clk", "clicks",
    "isclick", "label", "target", "y",
)  # fmt: skip
RATINGS = ("rating", "ratings", "stars", "star_rating", "overall", "review_score", "user_rating")
ENGAGEMENTS = (
    "conversion", "converted", "is_conversion", "conversion_label", "purchase", "purchased",
    "is_purchase", "bought", "buy", "ordered", "order", "install", "installed", "is_attributed",
    "add_to_cart", "added_to_cart", "engagement", "engaged", "like", "liked", "long_view",
)  # fmt: skip
REVENUES = (
    "revenue", "price_paid", "paid", "amount_paid", "sales", "sales_amount", "sale_amount",
    "order_value", "purchase_value", "conversion_value", "gmv", "payout", "earnings",
)  # fmt: skip
POSITIONS = ("position", "pos", "rank", "slot", "ad_position", "display_position", "slot_position")
TIMES = (
    "timestamp", "event_timestamp", "event_time", "datetime", "date_time", "unixtime",
    "unix_time", "ts", "time", "click_time", "date", "created_at", "day", "hour",
)  # fmt: skip
KEY = "_?(id|ids|key|hash|uuid|code|no|number|nr)"
_PEOPLE = "user|visitor|customer|member|client|viewer|reader|account|person|cookie|uid|uuid"
USER = re.compile(f"({_PEOPLE})({KEY})?")
REQUEST = re.compile(
    # A bare search or query is what the user typed.
    f"(request|display|impression|auction|slate|pageview|page_view)({KEY})?|"
    f"(search|srch|query|session|req|bid){KEY}"
)
ADS = (
    "ad", "creative", "banner", "item", "product", "sku", "asin", "goods", "offer", "adgroup",
    "campaign", "movie",
    "film", "article", "news", "book", "song", "track", "video", "game", "app", "recipe",
    "listing", "hotel", "prop", "property", "restaurant", "business", "document", "doc",
    "content", "post", "story", "show", "episode",
)  # fmt: skip
