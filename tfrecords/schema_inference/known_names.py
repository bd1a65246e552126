"""Common names of keys and labels, words joined by `_`.

Labels are recognized by the core of their names: `is_click_bool` and `gross_bookings_usd` are
`click` and `gross_bookings`.
"""

import re
from collections.abc import Sequence

# Maximum share of rows without a value that a row must have.
MAX_MISSING = 0.005
# Maximum share of rows without a click or a time, the default of --max_rejected_fraction.
MAX_REJECTED = 0.01
# Maximum share of rows without a user.
MAX_ANONYMOUS = 0.9
# In order of preference.
CLICKS = (
    "click", "clicked", "clk", "isclick", "isclicked", "clicks", "klick", "geklickt", "angeklickt",
    "clic", "clics", "cliqué", "clicado", "cliccato", "点击", "是否点击", "クリック",
    "click_through", "clickthrough",
)  # fmt: skip
# A name of a count, and in it the name of what is counted.
_COUNT = re.compile(
    "((number_of|num|nb|n|cnt|count|total|sum)_?)?(?P<counted>.+?)(_?(num|cnt|count|total|sum))?"
)
# Names of labels in general.
ANY_LABELS = ("label", "target", "y")
RATINGS = (
    "rating", "ratings", "stars", "star_rating", "overall", "review_score", "user_rating",
    "feedback", "reaction", "vote", "thumbs", "bewertung", "note", "nota", "puntuación",
    "puntuacion", "valoración", "valoracion", "avaliação", "voto", "评分",
)  # fmt: skip
ENGAGEMENTS = (
    "conversion", "converted", "conv", "purchase", "purchased", "bought", "buy", "booking",
    "booked", "ordered", "order", "sale", "sold", "transaction", "checkout", "install",
    "installed", "attributed", "signup", "sign_up", "subscribed", "lead", "add_to_cart",
    "added_to_cart", "add_to_basket", "engagement", "engaged", "like", "liked", "long_view",
    "follow", "followed",
    "share", "shared", "comment", "forward", "favorite", "favourite", "finish", "finished", "hate",
    "applied", "conversions", "convs", "purchases", "buys", "bookings", "orders", "sales",
    "transactions", "installs", "signups", "paid", "kauf", "gekauft", "bestellt", "achat", "acheté",
    "compra", "comprado", "acquisto", "购买",
)  # fmt: skip
REVENUES = (
    "revenue", "price_paid", "paid", "amount_paid", "sales", "sale", "sales_amount", "sale_amount",
    "order_value", "order_amount", "order_total", "purchase_value", "purchase_amount",
    "purchase_price", "conversion_value", "booking_value", "booking_amount", "gross_bookings",
    "gross_booking", "bookings", "transaction_value", "transaction_amount", "transaction_revenue",
    "gmv", "payout", "earnings", "turnover", "rev", "total_revenue", "net_revenue", "gross_revenue",
    "order_revenue", "conversion_revenue", "ad_revenue", "conv_value", "purchase_amt", "pay_amount",
    "payment_amount", "umsatz", "ingresos", "receita", "fatturato", "销售额",
)  # fmt: skip
# Amounts of purchases in a log of events.
PRICES = ("amount", "value", "total", "item_revenue", "price", "item_price", "unit_price")
# Words of amounts of money, and of amounts that are not revenue.
MONEY = {
    "revenue", "amount", "value", "total", "price", "paid", "sales", "gmv", "payout", "earnings",
    "turnover",
}  # fmt: skip
NO_REVENUE = {"tax", "shipping", "refund", "discount", "coupon", "delivery"}
# Words of columns of the currency of an amount.
CURRENCIES = {"currency", "ccy", "waehrung", "währung", "devise", "moneda", "valuta"}
POSITIONS = (
    "position", "pos", "rank", "slot", "ad_position", "ad_pos", "display_position", "slot_position",
    "list_position", "item_position", "item_list_index", "rang", "platz", "posicion", "posición",
    "posição", "posizione", "位置", "index",
)  # fmt: skip
TIMES = (
    "timestamp", "time_stamp", "event_timestamp", "event_time", "datetime", "date_time", "unixtime",
    "unix_time", "ts", "time", "click_time", "date", "dt", "ds", "created_at",
    "day", "hour",
)  # fmt: skip
# Last words of times.
TIME_WORDS = {"time", "timestamp", "ts", "at", "date", "dt"}
# Words of the times at which a warehouse copied or changed a row.
JOBS = {
    "load", "loaded", "etl", "elt", "ingest", "ingested", "ingestion", "insert", "inserted", "sync",
    "synced", "processed", "processing", "update", "updated", "modified", "received", "export",
    "exported", "upload", "uploaded", "extracted", "dwh", "dbt", "airbyte", "fivetran",
}  # fmt: skip
# Words of columns of the hour of the day.
HOURS = {"hour", "hr", "hh", "stunde", "heure", "hora", "ora"}
KEY = "(_?(id|ids|key|hash|uuid|code|no|number|nr)){1,2}"
_PEOPLE = (
    "user|user_pseudo|visitor|customer|member|client|viewer|reader|account|person|household|cookie|"
    "seeker|player|gamer|listener|guest|subscriber|shopper|buyer|reviewer|uid|uuid|applicant|"
    "passenger|patient|student|learner|employee|driver|msisdn|loyalty_card|kunden?|"
    "kundennummer|nutzer|benutzer|besucher|usuario|usuário|cliente|utilisateur|utente|用户|顧客|ユーザー"
)
_USER = re.compile(f"({_PEOPLE})({KEY})?")
_USER_NAME = re.compile(f"({_PEOPLE})_?name")
# Names of ids by which systems know a person or a device, most of them without a login.
PSEUDONYM = re.compile(
    f"(anonymous|anon|distinct|advertising|device|contact|recipient|profile|crm|"
    f"(domain|anonymous|hashed|external|encrypted|crm|app)_?user){KEY}|"
    f"((device|contact|recipient|{_PEOPLE})_)?"
    "(idfa|gaid|maid|ifa|(hashed_)?e?mail(_?(address|hash|sha256|md5))?)|full_?visitor_?id"
)
REQUEST = re.compile(
    # A column named only search or query holds what the user typed; one named only session may
    # number or describe it, see `keys.is_request_id`.
    f"(request|display|impression|auction|slate|pageview|page_view|session)({KEY})?|"
    f"(search|srch|query|req|bid|visit){KEY}"
)
ADS = (
    "ad", "aid", "creative", "cr_id", "crid", "banner", "item", "iid", "product", "prod", "sku",
    "asin", "goods", "offer", "adgroup", "ad_group", "adset", "ad_set", "campaign",
    "movie", "film", "article", "news", "book", "song", "track", "video",
    "game", "app", "recipe", "listing", "hotel", "prop", "property", "restaurant", "business",
    "document", "doc", "content", "post", "story", "show", "episode", "coupon", "deal", "isbn",
    "artist", "album", "podcast", "anime", "venue", "poi", "adv",
    # A column named only job or course may describe the user, one named only stock a quantity.
    "job_id", "course_id", "vacancy", "stock_code", "newsletter", "mailing", "advert", "pin_id",
    "message_id", "template_id", "promo", "package_name", "artikel", "artikelnummer", "werbemittel",
    "anzeige", "produkt", "annonce", "produit", "anuncio", "producto", "artículo", "articulo",
    "anúncio", "produto", "annuncio", "prodotto", "广告", "広告", "商品", "物品",
    "ean", "gtin", "upc", "pid",
)  # fmt: skip
# Words for ads that are themselves ids.
CODES_OF_ADS = {"sku", "asin", "isbn", "crid", "ean", "gtin", "upc"}
# Words for properties of the user and the context.
OF_QUERY = {
    "user", "visitor", "customer", "member", "device", "geo", "country", "city", "os", "browser",
    "hour", "weekday", "weekend", "isweekend", "session", "context", "ip", "referrer",
    "locale", "query", "search", "srch", "history", "hist", "basket", "cart", "seen", "viewed",
    "watched", "visited",
}  # fmt: skip
# Last words of codes, which are not labels.
CODES = {"id", "ids", "code", "type", "channel", "key"}
# Words of columns that an answer shows.
SHOWN = {
    "title", "name", "headline", "caption", "image", "img", "picture", "photo", "thumbnail", "url",
    "link", "icon", "logo",
}  # fmt: skip
_BEFORE_LABELS = {"is", "was", "has", "had", "did", "got"}
_AFTER_LABELS = {
    "bool", "flag", "flg", "ind", "indicator", "label", "binary", "yn", "cent", "cents", "usd",
    "eur", "gbp", "jpy", "cny", "inr",
    "euro", "euros", "dollar", "dollars", "in", "micro", "micros",
}  # fmt: skip


def ad_rank(words: str, key: str = f"({KEY})?") -> int | None:
    """Returns how well words joined by `_` fit an ad id, smaller is better; None: not at all.

    The key is a pattern of words such as `id` that follow the word for an ad.
    """
    words = id_last(words)
    for rank, word in enumerate(ADS):
        named = f"((view|target|parent)_)?{word}s?{key}|click(ed)?_{word}{KEY}"
        if re.fullmatch(named, words):
            return rank
    return None


def id_last(words: str) -> str:
    """Returns words with an id at the end: id_product, id_do_produto → product_id, produto_id."""
    return re.sub("^id_((de|del|della|des|do|da|du)_)?(.+)", r"\3_id", words)


def user_rank(words: str, last: str) -> int | None:
    """Returns how well words joined by `_` fit a user id, smaller is better; None: not at all.

    The last words are those of the name's part behind its last dot.
    """
    patterns = (_USER, PSEUDONYM, _USER_NAME)
    texts = (id_last(words), id_last(last))
    fits = [pattern.fullmatch(text) for pattern in patterns for text in texts]
    return next((rank for rank, match in enumerate(fits) if match), None)


def counted(core: str) -> str:
    """Returns what a count counts by the core of its name: num_clicks, clickcount → clicks, click.

    Other names are returned as they are.
    """
    match = _COUNT.fullmatch(core)
    return match["counted"] if match else core


def is_click_of_thing(core: str) -> bool:
    """Returns whether the core of a name is the click of an ad or a user, such as ad_clicked."""
    thing, _, label = core.rpartition("_")
    return label in ("click", "clicked", "clk") and thing in ("user", *ADS)


def plain_words(text: str) -> str:
    """Returns the words of a text without RecBole's type, in lower case, joined by `_`."""
    text = re.sub(":(token|float)(_seq)?$", "", text.lower())
    return re.sub(r"[\W_]+", "_", text).strip("_")


def core(words: Sequence[str]) -> str:
    """Returns a name without words for flags and money: has, purchased, flag → purchased."""
    left = list(words)
    while len(left) > 1 and left[0] in _BEFORE_LABELS:
        left = left[1:]
    while len(left) > 1 and left[-1] in _AFTER_LABELS:
        left = left[:-1]
    return "_".join(left)
