// All words of the page, in both languages, and how numbers and times are written.

const WORDS = {
  "pt-BR": {
    title: "Pedidos de crédito", skip: "Ir para os pedidos", logout: "Sair", filters: "Filtros",
    figures: "Números", partner: "Parceiro", product: "Produto", status: "Situação", all: "Todos",
    clear: "Limpar", pause: "Pausar", resume: "Continuar", csv: "Baixar CSV",
    hour: "Última hora", day: "24 horas", yesterday: "Ontem", month: "30 dias", window: "Período",
    live: "Ao vivo", connecting: "Conectando…", offline: "Reconectando…", paused: "Em pausa",
    light: "Tema claro", dark: "Tema escuro", language: "English", staff: "Equipe", close: "Fechar",
    in_review: "Em análise", approved: "Aprovado", rejected: "Recusado", cancelled: "Cancelado",
    in_reviews: "Em análise", approveds: "Aprovados", rejecteds: "Recusados", cancelleds: "Cancelados",
    total: "Pedidos", rate: "Taxa de aprovação", requested: "Valor pedido", approved_amount: "Valor aprovado",
    p50: "Decisão, mediana", p95: "Decisão, p95", chart_hour: "Pedidos por minuto, última hora",
    chart_day: "Pedidos por hora, 24 horas", chart_yesterday: "Pedidos por hora, ontem",
    chart_month: "Pedidos por dia, 30 dias", as_table: "Ver como tabela", health: "Operação",
    bureau: "Bureau de crédito", queue: "Fila de decisão", workers: "Decisores ativos", dead: "Sem decisão possível",
    up: "Responde", down: "Fora do ar", unknown: "Sem notícia", waiting: (n, s) => `${n} na fila, ${s}`,
    empty_queue: "Vazia", reasons: "Motivos de recusa", no_reasons: "Nenhuma recusa neste período",
    by_product: "Valores por produto", by_partner: "Valores por parceiro", orders: "Pedidos", count: "Pedidos",
    no_orders: "Nenhum pedido neste período com estes filtros.", shown: (n) => `${n} mais recentes`,
    more: "Mostrar mais", time: "Horário", order: "Pedido", amount: "Valor", detail: "Motivo",
    events: "Linha do tempo", evaluations: "Avaliações", inputs: "Dados usados na decisão", loading: "Carregando…",
    not_found: "Este pedido não existe ou não é seu.", failed: "Não foi possível carregar. Tente de novo.",
    term: "Prazo", months: (n) => `${n} meses`, interest: "Juros ao mês", purpose: "Finalidade",
    policy: "Política", score: "Pontuação", model: "Modelo", latency: "Bureau respondeu em",
    by: "por", customer: "cliente", system: "sistema", created: "Pedido feito", referred: "Encaminhado para análise",
    reviewed: "Revisado por uma pessoa", disbursed: "Valor liberado",
    repayment_status_changed: "Situação do pagamento mudou", approve: "Aprovar", reject: "Recusar",
    review: "Análise humana", credit_desk: "Mesa de crédito", policy_provider: "Política automática",
    chart_text: (n, w) => `${n} pedidos. ${w}`,
  },
  en: {
    title: "Credit orders", skip: "Skip to the orders", logout: "Log out", filters: "Filters",
    figures: "Figures", partner: "Partner", product: "Product", status: "Status", all: "All",
    clear: "Clear", pause: "Pause", resume: "Resume", csv: "Download CSV",
    hour: "Last hour", day: "24 hours", yesterday: "Yesterday", month: "30 days", window: "Period",
    live: "Live", connecting: "Connecting…", offline: "Reconnecting…", paused: "Paused",
    light: "Light theme", dark: "Dark theme", language: "Português", staff: "Staff", close: "Close",
    in_review: "In review", approved: "Approved", rejected: "Rejected", cancelled: "Cancelled",
    in_reviews: "In review", approveds: "Approved", rejecteds: "Rejected", cancelleds: "Cancelled",
    total: "Orders", rate: "Approval rate", requested: "Requested", approved_amount: "Approved amount",
    p50: "Decision, median", p95: "Decision, p95", chart_hour: "Orders by minute, last hour",
    chart_day: "Orders by hour, 24 hours", chart_yesterday: "Orders by hour, yesterday",
    chart_month: "Orders by day, 30 days", as_table: "Show as a table", health: "Operations",
    bureau: "Credit bureau", queue: "Decision queue", workers: "Active workers", dead: "Cannot be decided",
    up: "Answers", down: "Down", unknown: "No news", waiting: (n, s) => `${n} waiting, ${s}`,
    empty_queue: "Empty", reasons: "Reasons for refusal", no_reasons: "No refusal in this period",
    by_product: "Amounts by product", by_partner: "Amounts by partner", orders: "Orders", count: "Orders",
    no_orders: "No orders in this period with these filters.", shown: (n) => `${n} most recent`,
    more: "Show more", time: "Time", order: "Order", amount: "Amount", detail: "Reason",
    events: "Timeline", evaluations: "Evaluations", inputs: "What the decision was made of", loading: "Loading…",
    not_found: "This order does not exist or is not yours.", failed: "Could not be loaded. Try again.",
    term: "Term", months: (n) => `${n} months`, interest: "Interest a month", purpose: "Purpose",
    policy: "Policy", score: "Score", model: "Model", latency: "Bureau answered in",
    by: "by", customer: "customer", system: "system", created: "Order placed", referred: "Referred to a person",
    reviewed: "Reviewed by a person", disbursed: "Paid out",
    repayment_status_changed: "Repayment status changed", approve: "Approve", reject: "Reject",
    review: "Human review", credit_desk: "Credit desk", policy_provider: "Automatic policy",
    chart_text: (n, w) => `${n} orders. ${w}`,
  },
};
const NAMES = {
  "pt-BR": {
    personal_loan: "Empréstimo pessoal", payroll_loan: "Consignado", vehicle_loan: "Financiamento de veículo",
    purchase_financing: "Crediário", working_capital: "Capital de giro", export_finance: "Financiamento à exportação",
    fx_advance: "Adiantamento de câmbio",
  },
  en: {},
};
const REASONS_EN = {
  LOW_SCORE: "Credit score below our policy's minimum", INCOME_COMMITMENT: "Instalment too large for the income",
  POLICY_LIMIT: "Amount above our policy's limit", FRAUD_SUSPECTED: "Needs an additional security check",
  NEGATIVE_RECORD: "Negative records at the credit bureau", MANUAL_REVIEW: "To be reviewed by a person",
};
const REASONS_PT = {
  LOW_SCORE: "Pontuação abaixo do mínimo", INCOME_COMMITMENT: "Parcela alta para a renda",
  POLICY_LIMIT: "Valor acima do limite", FRAUD_SUSPECTED: "Verificação de segurança",
  NEGATIVE_RECORD: "Restrição no bureau", MANUAL_REVIEW: "Análise por uma pessoa",
};

export let language = "pt-BR";
const formats = new Map();

export function speak(wanted) {
  language = wanted;
  formats.clear();
  document.documentElement.lang = wanted;
}

export function word(name, ...given) {
  const found = WORDS[language][name];
  return typeof found === "function" ? found(...given) : found ?? name;
}

export function nameOf(code) {
  const text = NAMES[language][code] ?? code.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function reasonOf(code) {
  return (language === "en" ? REASONS_EN : REASONS_PT)[code] ?? nameOf(code.toLowerCase());
}

function format(key, make) {
  if (!formats.has(key)) formats.set(key, make());
  return formats.get(key);
}

export const number = (n) => format("n", () => new Intl.NumberFormat(language)).format(n);

export const percent = (share) => share === null ? "–"
  : format("%", () => new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 })).format(share);

export function money(cents, currency, short = false) {
  const options = { style: "currency", currency };
  if (short) Object.assign(options, { notation: "compact", maximumFractionDigits: 1 });
  return format(currency + short, () => new Intl.NumberFormat(language, options)).format(cents / 100);
}

const ZONE = "America/Sao_Paulo";
const TIMES = {
  full: { dateStyle: "short", timeStyle: "medium" },
  minute: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  day: { day: "2-digit", month: "2-digit" },
  second: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
};
export const time = (ms, kind) =>
  format(`t${kind}`, () => new Intl.DateTimeFormat(language, { timeZone: ZONE, ...TIMES[kind] })).format(ms);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const few = format("d", () => new Intl.NumberFormat(language, { maximumSignificantDigits: 2 }));
  if (seconds < 1) return `${few.format(seconds * 1000)} ms`;
  if (seconds < 90) return `${few.format(seconds)} s`;
  if (seconds < 5400) return `${few.format(seconds / 60)} min`;
  if (seconds < 129600) return `${few.format(seconds / 3600)} h`;
  return `${few.format(seconds / 86400)} d`;
}
