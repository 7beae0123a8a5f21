{{ monthly_cash_flow() }}
